// Macros that pass an error on: RETURN_IF_ERROR and ASSIGN_OR_RETURN.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define ESPALIER_CONCAT_INNER(a, b) a##b
#define ESPALIER_CONCAT(a, b) ESPALIER_CONCAT_INNER(a, b)

// Evaluates `expr` (absl::Status) once and returns it from the caller when it is not OK.
#define RETURN_IF_ERROR(expr)                               \
  do {                                                      \
    absl::Status espalier_status_ = (expr);                 \
    if (!espalier_status_.ok()) return espalier_status_;    \
  } while (false)

// ASSIGN_OR_RETURN(auto value, StatusOrExpression());
#define ASSIGN_OR_RETURN(lhs, expr) \
  ASSIGN_OR_RETURN_IMPL(ESPALIER_CONCAT(espalier_status_or_, __LINE__), lhs, expr)
#define ASSIGN_OR_RETURN_IMPL(result, lhs, expr)  \
  auto result = (expr);                           \
  if (!result.ok()) return result.status();       \
  lhs = std::move(result).value()

// Descriptors in words.
#include "libs/spec/fields.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace espalier::spec {
namespace {

constexpr size_t kQuotedMax = 60;
constexpr size_t kNameMax = 64;

// "ROUTER_KIND_" of RouterKind: the common prefix that the style guide asks for, found on the zero
// value.
std::string PrefixOf(const EnumDescriptor& type) {
  const std::string& zero = type.value(0)->name();
  const size_t end = zero.rfind("UNSPECIFIED");
  return end == std::string::npos ? "" : zero.substr(0, end);
}

size_t EditDistance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

}  // namespace

const v1::FieldRules& RulesOf(const FieldDescriptor& field) {
  return field.options().GetExtension(v1::rules);
}

std::string ShortName(const EnumValueDescriptor& value) {
  const std::string prefix = PrefixOf(*value.type());
  return absl::AsciiStrToLower(value.name().substr(prefix.size()));
}

std::vector<std::string> ShortNames(const EnumDescriptor& type) {
  std::vector<std::string> names;
  for (int i = 1; i < type.value_count(); ++i) names.push_back(ShortName(*type.value(i)));
  return names;
}

const EnumValueDescriptor* FindEnumValue(const EnumDescriptor& type, const std::string& name) {
  const std::string lower = absl::AsciiStrToLower(name);
  for (int i = 1; i < type.value_count(); ++i) {
    const EnumValueDescriptor* value = type.value(i);
    if (lower == ShortName(*value) || lower == absl::AsciiStrToLower(value->name())) return value;
  }
  return nullptr;
}

std::string TypeWords(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64:
      return "a whole number";
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return "a number";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    case FieldDescriptor::CPPTYPE_ENUM:
      return "one of";
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return "a map of fields";
    default:
      return "text";
  }
}

std::string LimitWords(const FieldDescriptor& field) {
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
    return OrWords(ShortNames(*field.enum_type()));
  }
  const v1::FieldRules& rules = RulesOf(field);
  std::string words;
  if (rules.has_above()) absl::StrAppend(&words, "above ", NumberText(rules.above()));
  if (rules.has_min()) absl::StrAppend(&words, "from ", NumberText(rules.min()));
  if (rules.has_max()) {
    absl::StrAppend(&words, words.empty() ? "up to " : " to ", NumberText(rules.max()));
  }
  if (rules.has_min_items() || rules.has_max_items()) {
    absl::StrAppend(&words, words.empty() ? "" : ", ", rules.min_items(), " to ",
                    rules.has_max_items() ? absl::StrCat(rules.max_items()) : "any number of",
                    " items");
  }
  return words;
}

std::string AllowedWords(const FieldDescriptor& field) {
  const std::string limits = LimitWords(field);
  return absl::StrCat(TypeWords(field), limits.empty() ? "" : " ", limits);
}

bool WithinBounds(const FieldDescriptor& field, double value) {
  const v1::FieldRules& rules = RulesOf(field);
  if (!std::isfinite(value)) return false;
  if (rules.has_min() && value < rules.min()) return false;
  if (rules.has_max() && value > rules.max()) return false;
  return !rules.has_above() || value > rules.above();
}

std::string NearName(const std::string& name, const std::vector<std::string>& names) {
  if (name.empty() || name.size() > kNameMax) return "";
  std::string best;
  size_t best_distance = std::max<size_t>(2, name.size() / 3) + 1;
  for (const std::string& other : names) {
    const size_t distance = EditDistance(absl::AsciiStrToLower(name), other);
    if (distance < best_distance && distance < other.size()) {
      best = other;
      best_distance = distance;
    }
  }
  return best;
}

std::string OrWords(const std::vector<std::string>& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    absl::StrAppend(&text, i == 0 ? "" : i + 1 == words.size() ? " or " : ", ", words[i]);
  }
  return text;
}

std::string NumberText(double value) {
  char buffer[32];
  // Whole numbers in full: nobody should have to read 1e+06.
  if (std::abs(value) < 1e15 && value == std::floor(value)) {
    return absl::StrCat(static_cast<int64_t>(value));
  }
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value);
  return std::string(buffer, end.ptr);
}

std::string Quoted(const std::string& value) {
  const bool cut = value.size() > kQuotedMax;
  return absl::StrCat("\"", absl::Utf8SafeCHexEscape(value.substr(0, kQuotedMax)), cut ? "…" : "",
                      "\"");
}

}  // namespace espalier::spec

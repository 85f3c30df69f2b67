// Verifier: one reference, read once, and the answers that are compared with it.
#pragma once

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "libs/reward/reward.h"

namespace espalier::reward {

struct Reading;  // an answer as text, number and expression; see equivalence.h

// Immutable after construction: any number of threads may call Verify.
class Verifier {
 public:
  Verifier(absl::string_view reference, const VerifyOptions& options);
  ~Verifier();

  // False when the reference is empty, too long or beyond a budget: every verdict is kAbstain then.
  bool readable() const { return problem_.empty(); }
  const std::string& problem() const { return problem_; }
  Verification Verify(absl::string_view answer) const;
  // True for an answer that ends in a whole number or fraction other than the reference's exact
  // value: Verify would find it wrong, at a hundred times the cost. False says nothing.
  bool SurelyWrong(absl::string_view answer) const;
  // The reference is one exact number: no text, no list, nothing that is rounded.
  bool exact() const;

 private:
  void FindExact();
  Verification VerifyChoice(char letter, const Reading& answer) const;
  Verification VerifyCalendar(absl::string_view answer) const;
  bool EqualText(absl::string_view answer) const;
  Verification VerifyParsed(absl::string_view answer, int depth) const;
  Verification VerifyProse(absl::string_view answer, int depth) const;

  VerifyOptions options_;
  std::string problem_;
  std::unique_ptr<Reading> reference_;
};

}  // namespace espalier::reward

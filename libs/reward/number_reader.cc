// Every part reads forward from where the last one ended.
#include "libs/reward/number_reader.h"

#include <gmpxx.h>

#include <array>

#include "libs/reward/scan.h"

namespace espalier::reward {
namespace {

// The shortest end of `digits` that repeats up to it: "1666" -> "6", "2727" -> "27"; empty if none.
std::string RepeatingEnd(const std::string& digits) {
  for (size_t period = 1; period <= 12 && 2 * period <= digits.size(); ++period) {
    const std::string end = digits.substr(digits.size() - period);
    if (digits.compare(digits.size() - 2 * period, period, end) == 0) return end;
  }
  return "";
}

int DigitValue(char c) {
  if (IsDigit(c)) return c - '0';
  const char lower = Lower(c);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : 99;
}

// 2 to 16 as a number or a word, or 0.
int BaseOf(absl::string_view name) {
  constexpr std::array<absl::string_view, 17> kBases = {
      "",     "",    "two",    "three",  "four", "five", "six", "seven",  "eight",
      "nine", "ten", "eleven", "twelve", "",     "",     "",    "sixteen"};
  if (name.empty()) return 0;
  for (size_t i = 2; i < kBases.size(); ++i) {
    if (name == kBases[i] || name == std::to_string(i)) return static_cast<int>(i);
  }
  return 0;
}

}  // namespace

bool NumberReader::Read() {
  if (AnotherBase()) return true;
  digits_ = Integer();
  if (at_ < text_.size() && text_[at_] == '.' && text_.substr(at_, 2) != "..") {
    size_t next = at_ + 1;
    std::string fraction;
    while (next < text_.size() && IsDigit(text_[next])) fraction.push_back(text_[next++]);
    // A point behind which no digit comes ends a sentence.
    if (!fraction.empty() || (next < text_.size() && !IsSpace(text_[next]))) {
      digits_ += "." + fraction;
      at_ = next;
    } else if (next == text_.size()) {
      at_ = next;
    }
  }
  if (digits_.find('.') != std::string::npos && !Period()) return false;
  Exponent();
  if (at_ + 1 < text_.size() && text_[at_] == 'C' && IsDigit(text_[at_ + 1])) {
    size_t end = at_ + 1;
    while (end < text_.size() && IsDigit(text_[end])) ++end;
    chosen_ = std::string(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end;
  }
  return true;
}

void NumberReader::Exponent() {
  if (at_ + 1 >= text_.size() || (text_[at_] != 'e' && text_[at_] != 'E')) return;
  size_t next = at_ + 1;
  if (text_[next] == '-' || text_[next] == '+') ++next;
  size_t end = next;
  while (end < text_.size() && IsDigit(text_[end])) ++end;
  if (end == next || end - next > 4) return;
  digits_ += "e" + std::string(text_.substr(at_ + 1, end - at_ - 1));
  at_ = end;
}

std::string NumberReader::Integer() {
  std::string digits;
  size_t group = 0;
  bool grouped = false;
  while (at_ < text_.size()) {
    const char c = text_[at_];
    if (IsDigit(c)) {
      digits.push_back(c);
      ++group;
      ++at_;
      continue;
    }
    if (text_.substr(at_, 2) == "\\!" && at_ + 2 < text_.size() && IsDigit(text_[at_ + 2])) {
      at_ += 2;
      continue;
    }
    const size_t comma = grouped && group != 3 ? 0 : ThousandsAt(at_, group);
    if (comma == 0) break;
    grouped = true;
    at_ += comma;
    group = 0;
  }
  return digits;
}

// What repeats behind the point: "0.\overline{3}", "0.(3)", "0.333…" become "0.(3)".
bool NumberReader::Period() {
  for (const absl::string_view bar : {"\\overline{", "\\bar{", "\\dot{"}) {
    if (!HoldsAt(text_, at_, bar)) continue;
    size_t next = at_ + bar.size();
    std::string period;
    while (next < text_.size() && IsDigit(text_[next])) period.push_back(text_[next++]);
    if (period.empty() || next >= text_.size() || text_[next] != '}') return false;
    digits_ += "(" + period + ")";
    at_ = next + 1;
    return true;
  }
  for (const absl::string_view dots : {"...", "\\ldots", "\\dots", "\\cdots"}) {
    if (text_.substr(at_, dots.size()) != dots) continue;
    const std::string fraction = digits_.substr(digits_.find('.') + 1);
    const std::string period = RepeatingEnd(fraction);
    if (period.empty()) return true;
    digits_ += "(" + period + ")";
    at_ += dots.size();
    return true;
  }
  if (at_ < text_.size() && text_[at_] == '(') {
    size_t next = at_ + 1;
    while (next < text_.size() && IsDigit(text_[next])) ++next;
    const bool ends = next < text_.size() && text_[next] == ')' && next > at_ + 1 &&
                      Trim(text_.substr(next + 1)).empty();
    if (ends) {
      digits_ += std::string(text_.substr(at_, next + 1 - at_));
      at_ = next + 1;
    }
  }
  return true;
}

// "101_2", "1A_{16}", "101_{\text{two}}": the value, as a decimal integer.
bool NumberReader::AnotherBase() {
  size_t end = at_;
  while (end < text_.size() && (IsDigit(text_[end]) || (DigitValue(text_[end]) < 16))) ++end;
  NumberReader subscript(text_, end, depth_);
  if (!subscript.ReadBase(text_.substr(at_, end - at_))) return false;
  digits_ = subscript.digits();
  at_ = subscript.end();
  return true;
}

bool NumberReader::ReadBase(absl::string_view digits) {
  constexpr size_t kDigitsMax = 64, kSubscriptMax = 40;
  if (digits.empty() || digits.size() > kDigitsMax || at_ >= text_.size() || text_[at_] != '_')
    return false;
  const size_t open = at_ + 1;
  const bool braced = open < text_.size() && text_[open] == '{';
  size_t end = braced ? MatchBrace(text_.substr(0, open + kSubscriptMax), open) : open;
  if (end == absl::string_view::npos) return false;
  if (!braced) {
    while (end < text_.size() && IsDigit(text_[end])) ++end;
  }
  absl::string_view name = text_.substr(open + braced, end - open - braced);
  if (braced) ++end;
  if (name.substr(0, 6) == "\\text{" && name.back() == '}') name = name.substr(6, name.size() - 7);
  const int base = BaseOf(Trim(name));
  mpz_class value = 0;
  for (const char c : digits) {
    if (DigitValue(c) >= base) return false;
    value = value * base + DigitValue(c);
  }
  at_ = end;
  digits_ = value.get_str();
  return true;
}
// Size of a thousands separator at `at`, 0 when there is none.
size_t NumberReader::ThousandsAt(size_t at, size_t group) const {
  size_t size = 0;
  bool sure = false;
  if (text_.substr(at, 3) == "{,}")
    size = 3, sure = true;
  else if (text_.substr(at, 3) == ",\\!")
    size = 3, sure = true;
  else if (text_.substr(at, 2) == "\\,")
    size = 2;
  else if (text_.substr(at, 2) == "\\ ")
    size = 2;
  else if (text_.substr(at, 1) == "," || text_.substr(at, 1) == " " || text_.substr(at, 1) == "'")
    size = 1;
  if (size == 0 || group == 0 || group > 3) return 0;
  // In "(1,234)" and "{1,234}" a comma separates.
  if (!sure && depth_ > 0) return 0;
  for (size_t i = 0; i < 3; ++i) {
    if (at + size + i >= text_.size() || !IsDigit(text_[at + size + i])) return 0;
  }
  const size_t behind = at + size + 3;
  if (behind < text_.size() && IsDigit(text_[behind])) return 0;
  return size;
}

}  // namespace espalier::reward

// Digits are gathered first and converted once; no step depends on an exponent's size before it was
// checked.
#include "libs/reward/plain_number.h"

#include <cstdlib>
#include <utility>

#include "libs/reward/scan.h"

namespace espalier::reward {
namespace {

constexpr int kExponentMax = 4000;

struct Digits {
  std::string integer, fraction;
  bool point = false;
};

constexpr size_t kGroupsMax = 64;

// The separator at `at` between two digits (',' '.' ' ' '\'' or, for "{,}", 'T'), 0 when there is
// none; `size` is how long it is.
char SeparatorAt(absl::string_view text, size_t at, size_t* size) {
  const char c = text[at];
  if (c == ',' || c == '.' || c == ' ' || c == '\'') {
    *size = text.substr(at, 3) == ",\\!" ? 3 : 1;
    return *size == 3 ? 'T' : c;
  }
  if (text.substr(at, 3) == "{,}") return *size = 3, 'T';
  if (text.substr(at, 3) == "{.}") return *size = 3, '.';
  if (text.substr(at, 2) == "\\," || text.substr(at, 2) == "\\ ") return *size = 2, ' ';
  if (text.substr(at, 2) == "\\!") return *size = 2, '!';
  return 0;
}

struct Groups {
  absl::string_view digits[kGroupsMax];
  char separator[kGroupsMax];  // before the group of the same index; none before the first
  size_t count = 0;
};

// "1,234,567": groups of three, or, in the Indian style, of two before the last three.
bool IsGrouped(const Groups& groups, size_t count) {
  if (groups.digits[0].empty() || groups.digits[0].size() > 3 || groups.digits[0][0] == '0')
    return false;
  bool threes = true, indian = count > 2 && groups.digits[0].size() < 3;
  for (size_t i = 1; i < count; ++i) {
    threes = threes && groups.digits[i].size() == 3;
    indian =
        indian && groups.digits[i].size() == (i + 1 == count ? 3 : 2) && groups.separator[i] == ',';
  }
  return threes || indian;
}

bool SameSeparators(const Groups& groups, size_t count) {
  for (size_t i = 2; i < count; ++i) {
    if (groups.separator[i] != groups.separator[1]) return false;
  }
  return true;
}

// Which of the groups is the fraction: the last one behind a decimal mark, or none. False when the
// separators make no number.
bool FindFraction(const Groups& groups, bool comma_decimal, bool* fraction) {
  const size_t count = groups.count;
  *fraction = false;
  if (count == 1) return true;
  const char last = groups.separator[count - 1];
  if (count == 2 && last == '.') return *fraction = true;
  if (count == 2 && last == ',' && comma_decimal) return *fraction = !groups.digits[0].empty();
  if (SameSeparators(groups, count)) return IsGrouped(groups, count);
  // "1,234.5", "1.234,5": a mark of another kind ends the thousands.
  if ((last != '.' && last != ',') || groups.separator[1] == last) return false;
  return *fraction = SameSeparators(groups, count - 1) && IsGrouped(groups, count - 1);
}

// Reads "1,234.50" at `at`; leaves `at` behind it. False when the separators make no number.
bool ReadDigits(absl::string_view text, bool comma_decimal, size_t* at, Digits* digits) {
  Groups groups;
  const auto read = [&] {
    const size_t begin = *at;
    while (*at < text.size() && IsDigit(text[*at])) ++*at;
    return text.substr(begin, *at - begin);
  };
  groups.digits[groups.count++] = read();
  while (*at < text.size()) {
    size_t size = 0;
    const char separator = SeparatorAt(text, *at, &size);
    if (separator == 0 || *at + size >= text.size() || !IsDigit(text[*at + size])) break;
    if (separator != '.' && groups.digits[0].empty()) return false;
    if (groups.count == kGroupsMax) return false;
    *at += size;
    groups.separator[groups.count] = separator;
    groups.digits[groups.count++] = read();
  }
  bool fraction = false;
  // "1\!2" is closer, not apart.
  bool joined = groups.count > 1;
  for (size_t i = 1; i < groups.count; ++i) joined = joined && groups.separator[i] == '!';
  if (!joined && !FindFraction(groups, comma_decimal, &fraction)) return false;
  for (size_t i = 0; i < groups.count; ++i) {
    std::string* to = fraction && i + 1 == groups.count ? &digits->fraction : &digits->integer;
    to->append(groups.digits[i].data(), groups.digits[i].size());
  }
  digits->point = fraction;
  if (!fraction && *at < text.size() && text[*at] == '.') {
    ++*at;
    digits->point = true;
  }
  return !digits->integer.empty() || !digits->fraction.empty();
}

mpz_class PowerOfTen(unsigned long exponent) {
  mpz_class power;
  mpz_ui_pow_ui(power.get_mpz_t(), 10, exponent);
  return power;
}

}  // namespace

PlainNumber ReadPlainNumber(absl::string_view text, bool comma_decimal) {
  PlainNumber number;
  text = Trim(text);
  size_t at = 0;
  bool negative = false;
  if (at < text.size() && (text[at] == '-' || text[at] == '+')) negative = text[at++] == '-';
  at = SkipSpace(text, at);
  Digits digits;
  if (at >= text.size() || text.size() > kDigitsMax ||
      !ReadDigits(text, comma_decimal, &at, &digits))
    return number;
  number.decimal = digits.point && !digits.fraction.empty();
  number.digits = static_cast<int>(digits.fraction.size());
  mpz_class numerator((digits.integer + digits.fraction).c_str(), 10);
  number.value = mpq_class(std::move(numerator), PowerOfTen(digits.fraction.size()));
  if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
    size_t digit = at + 1;
    const bool minus = digit < text.size() && text[digit] == '-';
    if (digit < text.size() && (text[digit] == '-' || text[digit] == '+')) ++digit;
    int exponent = 0;
    const size_t first = digit;
    while (digit < text.size() && IsDigit(text[digit]) && exponent <= kExponentMax) {
      exponent = exponent * 10 + (text[digit++] - '0');
    }
    if (digit == first || exponent > kExponentMax) return number;
    if (minus) {
      number.value /= PowerOfTen(exponent);
      number.digits += exponent;
    } else {
      number.value *= PowerOfTen(exponent);
      number.digits -= exponent;
    }
    at = digit;
  } else if (at < text.size() && text[at] == '/' && !number.decimal) {
    at = SkipSpace(text, at + 1);
    Digits below;
    if (!ReadDigits(text, comma_decimal, &at, &below) || below.point) return number;
    const mpz_class denominator(below.integer.c_str(), 10);
    if (denominator == 0) return number;
    number.value /= denominator;
  }
  at = SkipSpace(text, at);
  if (at < text.size() && text[at] == '%') number.percent = true, ++at;
  if (at != text.size()) return number;
  number.value.canonicalize();
  if (negative) number.value = -number.value;
  number.ok = true;
  return number;
}

mpq_class HalfPlace(int digits) {
  mpq_class half(1, 2);
  const mpq_class scale(PowerOfTen(static_cast<unsigned long>(std::abs(digits))));
  if (digits >= 0) {
    half /= scale;
  } else {
    half *= scale;
  }
  return half;
}

std::string ToText(const mpq_class& value) { return value.get_str(); }

}  // namespace espalier::reward

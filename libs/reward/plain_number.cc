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

// Reads "1,234.50" at `at`; leaves `at` behind it. False when the separators do not make groups of
// three.
bool ReadDigits(absl::string_view text, bool comma_decimal, size_t* at, Digits* digits) {
  size_t group = 0;
  bool grouped = false;
  const auto comma_size = [&](size_t i) -> size_t {
    if (text.substr(i, 3) == "{,}" || text.substr(i, 3) == "\\,{") return text[i] == '{' ? 3 : 2;
    if (text.substr(i, 2) == "\\," || text.substr(i, 2) == "\\!") return 2;
    return i < text.size() && text[i] == ',' ? 1 : 0;
  };
  while (*at < text.size()) {
    if (IsDigit(text[*at])) {
      digits->integer.push_back(text[(*at)++]);
      ++group;
      continue;
    }
    const size_t size = comma_size(*at);
    if (size == 0 || *at + size >= text.size() || !IsDigit(text[*at + size])) break;
    if (comma_decimal) {
      *at += size;
      digits->point = true;
      while (*at < text.size() && IsDigit(text[*at])) digits->fraction.push_back(text[(*at)++]);
      return !digits->integer.empty();
    }
    if (group == 0 || group > 3 || (grouped && group != 3) || digits->integer[0] == '0')
      return false;
    grouped = true;
    group = 0;
    *at += size;
  }
  if (grouped && group != 3) return false;
  if (*at < text.size() && text[*at] == '.') {
    ++*at;
    digits->point = true;
    while (*at < text.size() && IsDigit(text[*at])) digits->fraction.push_back(text[(*at)++]);
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

// Ranges (digits, fullwidth forms, mathematical letters) are computed; single signs come from one
// sorted table.
#include "libs/reward/fold.h"

#include <algorithm>
#include <array>

#include "libs/reward/scan.h"

namespace espalier::reward {
namespace {

struct Sign {
  uint32_t code;
  const char* text;
};

// Sorted by code. Commands end with a space, so that a letter behind them does not join.
constexpr std::array<Sign, 143> kSigns = {{
    {0xA0, " "},
    {0xB0, "\\degree "},
    {0xB1, "\\pm "},
    {0xB7, "*"},
    {0xBA, "\\degree "},
    {0xBC, "\\frac{1}{4}"},
    {0xBD, "\\frac{1}{2}"},
    {0xBE, "\\frac{3}{4}"},
    {0xD7, "\\times "},
    {0xF7, "\\div "},
    {0x131, "i"},
    {0x66A, "%"},
    {0x66B, "."},
    {0x66C, ","},
    {0x60C, ","},
    {0x2002, " "},
    {0x2003, " "},
    {0x2004, " "},
    {0x2005, " "},
    {0x2006, " "},
    {0x2007, " "},
    {0x2008, " "},
    {0x2009, " "},
    {0x200A, " "},
    {0x200B, ""},
    {0x200C, ""},
    {0x200D, ""},
    {0x200E, ""},
    {0x200F, ""},
    {0x2010, "-"},
    {0x2011, "-"},
    {0x2012, "-"},
    {0x2013, "-"},
    {0x2018, "'"},
    {0x2019, "'"},
    {0x2022, "*"},
    {0x2026, "\\ldots "},
    {0x202F, " "},
    {0x2032, "'"},
    {0x2044, "/"},
    {0x205F, " "},
    {0x2061, ""},
    {0x2062, "*"},
    {0x2063, ","},
    {0x2064, "+"},
    {0x2102, "\\mathbb{C}"},
    {0x2113, "l"},
    {0x2115, "\\mathbb{N}"},
    {0x211A, "\\mathbb{Q}"},
    {0x211D, "\\mathbb{R}"},
    {0x2124, "\\mathbb{Z}"},
    {0x2150, "\\frac{1}{7}"},
    {0x2151, "\\frac{1}{9}"},
    {0x2152, "\\frac{1}{10}"},
    {0x2153, "\\frac{1}{3}"},
    {0x2154, "\\frac{2}{3}"},
    {0x2155, "\\frac{1}{5}"},
    {0x2156, "\\frac{2}{5}"},
    {0x2157, "\\frac{3}{5}"},
    {0x2158, "\\frac{4}{5}"},
    {0x2159, "\\frac{1}{6}"},
    {0x215A, "\\frac{5}{6}"},
    {0x215B, "\\frac{1}{8}"},
    {0x215C, "\\frac{3}{8}"},
    {0x215D, "\\frac{5}{8}"},
    {0x215E, "\\frac{7}{8}"},
    {0x2190, "\\leftarrow "},
    {0x2192, "\\to "},
    {0x21D2, "\\Rightarrow "},
    {0x2205, "\\emptyset "},
    {0x2208, "\\in "},
    {0x2209, "\\notin "},
    {0x220F, "\\prod "},
    {0x2211, "\\sum "},
    {0x2212, "-"},
    {0x2213, "\\mp "},
    {0x2215, "/"},
    {0x2216, "\\setminus "},
    {0x2217, "*"},
    {0x2218, "\\circ "},
    {0x2219, "*"},
    {0x221A, "\\sqrt "},
    {0x221B, "\\cbrt "},
    {0x221E, "\\infty "},
    {0x2220, "\\angle "},
    {0x2223, "\\mid "},
    {0x2227, " and "},
    {0x2228, " or "},
    {0x2229, "\\cap "},
    {0x222A, "\\cup "},
    {0x2236, ":"},
    {0x223C, "\\sim "},
    {0x2245, "\\cong "},
    {0x2248, "\\approx "},
    {0x2260, "\\ne "},
    {0x2261, "\\equiv "},
    {0x2264, "\\le "},
    {0x2265, "\\ge "},
    {0x2266, "\\le "},
    {0x2267, "\\ge "},
    {0x2282, "\\subset "},
    {0x2286, "\\subseteq "},
    {0x22C5, "*"},
    {0x2308, "\\lceil "},
    {0x2309, "\\rceil "},
    {0x230A, "\\lfloor "},
    {0x230B, "\\rfloor "},
    {0x2329, "\\langle "},
    {0x232A, "\\rangle "},
    {0x25B3, "\\triangle "},
    {0x27E8, "\\langle "},
    {0x27E9, "\\rangle "},
    {0x2A7D, "\\le "},
    {0x2A7E, "\\ge "},
    {0x3000, " "},
    {0x3001, ","},
    {0x3008, "("},
    {0x3009, ")"},
    {0x3010, "["},
    {0x3011, "]"},
    {0x338F, "kg"},
    {0x339C, "mm"},
    {0x339D, "cm"},
    {0x339E, "km"},
    {0x33A0, "cm^{2}"},
    {0x33A1, "m^{2}"},
    {0x33A2, "km^{2}"},
    {0x33A4, "cm^{3}"},
    {0x33A5, "m^{3}"},
    {0xFE50, ","},
    {0xFE51, ","},
    {0xFE52, "."},
    {0xFE54, ";"},
    {0xFE55, ":"},
    {0xFE59, "("},
    {0xFE5A, ")"},
    {0xFE61, "*"},
    {0xFE62, "+"},
    {0xFE63, "-"},
    {0xFE64, "<"},
    {0xFE65, ">"},
    {0xFE66, "="},
    {0xFEFF, ""},
}};

// First code points of ten digits in a row.
constexpr std::array<uint32_t, 12> kZeros = {0x660, 0x6F0, 0x966, 0x9E6, 0xA66, 0xAE6,
                                             0xBE6, 0xC66, 0xCE6, 0xD66, 0xE50, 0xFF10};

constexpr std::array<const char*, 25> kGreek = {
    "alpha", "beta",   "gamma",   "delta", "epsilon", "zeta", "eta",  "theta", "iota",
    "kappa", "lambda", "mu",      "nu",    "xi",      "o",    "pi",   "rho",   "sigma",
    "sigma", "tau",    "upsilon", "phi",   "chi",     "psi",  "omega"};

// The digit that a code point stands for, or -1.
int DigitOf(uint32_t code) {
  for (const uint32_t zero : kZeros) {
    if (code >= zero && code < zero + 10) return static_cast<int>(code - zero);
  }
  return -1;
}

// Superscript or subscript digits and signs as ASCII, or 0.
char RaisedOf(uint32_t code) {
  switch (code) {
    case 0xB9:
      return '1';
    case 0xB2:
      return '2';
    case 0xB3:
      return '3';
    case 0x207A:
      return '+';
    case 0x207B:
      return '-';
    case 0x207F:
      return 'n';
    case 0x2071:
      return 'i';
    case 0x2E3:
      return 'x';
    default:
      break;
  }
  return code == 0x2070 || (code >= 0x2074 && code <= 0x2079)
             ? static_cast<char>('0' + (code - 0x2070))
             : '\0';
}
char LoweredOf(uint32_t code) {
  if (code == 0x2099) return 'n';
  if (code == 0x2096) return 'k';
  return code >= 0x2080 && code <= 0x2089 ? static_cast<char>('0' + (code - 0x2080)) : '\0';
}

// Letters of "Mathematical Alphanumeric Symbols", or 0: alphabets of 52 in a row, then digits.
char PlainLetter(uint32_t code) {
  if (code >= 0x1D400 && code < 0x1D6A4) {
    const uint32_t letter = (code - 0x1D400) % 52;
    return static_cast<char>(letter < 26 ? 'A' + letter : 'a' + (letter - 26));
  }
  if (code >= 0x1D7CE && code <= 0x1D7FF) return static_cast<char>('0' + (code - 0x1D7CE) % 10);
  return code == 0x210E ? 'h' : '\0';
}

// Greek small letters, plain and mathematical italic or bold; null for anything else.
const char* GreekName(uint32_t code) {
  if (code == 0x3D1) return "theta";
  if (code == 0x3D5) return "phi";
  if (code >= 0x3B1 && code <= 0x3C9) return kGreek[code - 0x3B1];
  if (code >= 0x1D6A8 && code <= 0x1D7C9) {
    const uint32_t letter = (code - 0x1D6A8) % 58;
    if (letter >= 26 && letter < 51) return kGreek[letter - 26];
  }
  return nullptr;
}

const char* CapitalGreekName(uint32_t code) {
  switch (code) {
    case 0x393:
      return "Gamma";
    case 0x394:
      return "Delta";
    case 0x398:
      return "Theta";
    case 0x39B:
      return "Lambda";
    case 0x3A0:
      return "Pi";
    case 0x3A3:
      return "Sigma";
    case 0x3A6:
      return "Phi";
    case 0x3A8:
      return "Psi";
    case 0x3A9:
      return "Omega";
    default:
      return nullptr;
  }
}

const char* SignOf(uint32_t code) {
  for (const Sign& sign : kSigns) {
    if (sign.code == code) return sign.text;
  }
  return nullptr;
}

// A run of raised or lowered digits becomes one exponent or subscript.
size_t FoldRun(absl::string_view text, size_t at, char (*plain)(uint32_t), char mark,
               std::string* out) {
  std::string run;
  while (at < text.size()) {
    const CodePoint next = DecodeAt(text, at);
    const char c = plain(next.value);
    if (c == 0) break;
    run.push_back(c);
    at += next.size;
  }
  *out += mark;
  *out += "{" + run + "}";
  return at;
}

}  // namespace

CodePoint DecodeAt(absl::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(at);
  const size_t size = first < 0x80 ? 1 : first < 0xC0 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  if (size == 1 || at + size > text.size()) return {first, 1};
  uint32_t value = first & (0xFF >> (size + 1));
  for (size_t i = 1; i < size; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return {first, 1};
    value = value << 6 | (byte(at + i) & 0x3F);
  }
  return {value, size};
}

bool HasWide(absl::string_view text) {
  unsigned char any = 0;
  for (const char c : text) any |= static_cast<unsigned char>(c);
  return any >= 0x80;
}

std::string Fold(absl::string_view text) {
  std::string out;
  out.reserve(text.size() + 16);
  for (size_t at = 0; at < text.size();) {
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      out.push_back(text[at++]);
      continue;
    }
    const CodePoint point = DecodeAt(text, at);
    const uint32_t code = point.value;
    if (point.size == 1) {
      out.push_back(text[at++]);
    } else if (RaisedOf(code) != 0) {
      at = FoldRun(text, at, RaisedOf, '^', &out);
    } else if (LoweredOf(code) != 0) {
      at = FoldRun(text, at, LoweredOf, '_', &out);
    } else {
      if (const int digit = DigitOf(code); digit >= 0) {
        out.push_back(static_cast<char>('0' + digit));
      } else if (code > 0xFF00 && code < 0xFF5F) {
        out.push_back(static_cast<char>(code - 0xFF00 + 0x20));
      } else if (const char letter = PlainLetter(code)) {
        out.push_back(letter);
      } else if (const char* sign = SignOf(code)) {
        out += sign;
      } else if (const char* greek = GreekName(code)) {
        out += "\\" + std::string(greek) + " ";
      } else if (const char* capital = CapitalGreekName(code)) {
        out += "\\" + std::string(capital) + " ";
      } else {
        out.append(text.data() + at, point.size);
      }
      at += point.size;
    }
  }
  return out;
}

bool FoldDigits(absl::string_view text, std::string* folded, std::vector<size_t>* origin) {
  const auto fold = [](uint32_t code) -> char {
    if (const int digit = DigitOf(code); digit >= 0) return static_cast<char>('0' + digit);
    switch (code) {
      case 0x66A:
      case 0xFF05:
        return '%';
      case 0x66B:
      case 0xFF0E:
        return '.';
      case 0x66C:
        return ',';
      case 0xFF0F:
        return '/';
      case 0x2212:
      case 0xFF0D:
        return '-';
      default:
        return '\0';
    }
  };
  if (!HasWide(text)) return false;
  bool any = false;
  for (size_t at = 0; at < text.size() && !any;) {
    const CodePoint point = DecodeAt(text, at);
    any = point.size > 1 && fold(point.value) != 0;
    at += point.size;
  }
  if (!any) return false;
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = DecodeAt(text, at);
    const char plain = point.size > 1 ? fold(point.value) : '\0';
    for (size_t i = 0; i < (plain != 0 ? 1 : point.size); ++i) {
      folded->push_back(plain != 0 ? plain : text[at + i]);
      origin->push_back(at + i);
    }
    at += point.size;
  }
  origin->push_back(text.size());
  return true;
}

}  // namespace espalier::reward

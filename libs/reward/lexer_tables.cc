// Plain arrays, searched in order: they are small, and most answers never come here.
#include "libs/reward/lexer_tables.h"

#include <algorithm>
#include <array>
#include <utility>

namespace espalier::reward {
namespace {

using Pair = std::pair<absl::string_view, absl::string_view>;

constexpr std::array<absl::string_view, 39> kNames = {
    "arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc", "sinh", "cosh",   "tanh",    "sin",
    "cos",    "tan",    "cot",    "sec",    "csc",    "ln",     "log",  "exp",    "sqrt",    "cbrt",
    "frac",   "binom",  "max",    "min",    "gcd",    "lcm",    "lim",  "sum",    "prod",    "int",
    "abs",    "pi",     "mod",    "det",    "sgn",    "lg",     "cis",  "choose", "overline"};

constexpr std::array<absl::string_view, 8> kBackslashed = {"frac", "binom", "int",    "lim",
                                                           "sum",  "prod",  "choose", "overline"};

constexpr std::array<Pair, 62> kCommandMarks = {{
    {"le", "l"},       {"leq", "l"},        {"leqslant", "l"},
    {"lt", "<"},       {"ge", "g"},         {"geq", "g"},
    {"geqslant", "g"}, {"gt", ">"},         {"ne", "#"},
    {"neq", "#"},      {"approx", "~"},     {"equiv", "="},
    {"simeq", "~"},    {"in", "i"},         {"cup", "U"},
    {"bigcup", "U"},   {"pm", "p"},         {"mp", "m"},
    {"cdot", "*"},     {"times", "*"},      {"ast", "*"},
    {"div", "/"},      {"circ", "o"},       {"degree", "o"},
    {"lbrace", "\""},  {"rbrace", "'"},     {"{", "\""},
    {"}", "'"},        {"lfloor", "L"},     {"rfloor", "F"},
    {"lceil", "C"},    {"rceil", "c"},      {"langle", "("},
    {"rangle", ")"},   {"vert", "|"},       {"lvert", "|"},
    {"rvert", "|"},    {"mid", "|"},        {"%", "%"},
    {"colon", ":"},    {"lbrack", "["},     {"rbrack", "]"},
    {"ratio", ":"},    {"prime", "`"},      {"land", ","},
    {"bullet", "*"},   {"over", "/"},       {"to", "t"},
    {"notin", "n"},    {"setminus", "D"},   {"backslash", "D"},
    {"cap", "N"},      {"bigcap", "N"},     {"cong", "~"},
    {"lor", ","},      {"rightarrow", "t"}, {"smallsetminus", "D"},
    {"leqq", "l"},     {"geqq", "g"},       {"sim", "~"},
    {"&", "&"},        {"Vert", "|"},
}};

constexpr std::array<absl::string_view, 54> kSkipped = {
    "left",        "right",        "big",
    "Big",         "bigg",         "Bigg",
    "bigl",        "bigr",         "Bigl",
    "Bigr",        "biggl",        "biggr",
    "middle",      "displaystyle", "textstyle",
    "limits",      "nolimits",     "quad",
    "qquad",       "bf",           "rm",
    "it",          "mathcal",      "boldsymbol",
    "mathsf",      "mathit",       "vec",
    "hat",         "boxed",        "fbox",
    "scriptstyle", "underline",    "overrightarrow",
    "ensuremath",  "bm",           "large",
    "Large",       "LARGE",        "huge",
    "normalsize",  "small",        "footnotesize",
    "mathstrut",   "strut",        "thinspace",
    "enspace",     "mathop",       "displaylimits",
    "tiny",        "biggm",        "widehat",
    "tilde",       "dot",          "scriptscriptstyle"};

constexpr std::array<absl::string_view, 8> kWithArgument = {
    "color", "textcolor", "hspace", "vspace", "phantom", "hphantom", "vphantom", "tag"};

constexpr std::array<absl::string_view, 12> kTextCommands = {
    "text", "textbf",     "textit", "textrm", "mathrm", "mathbf",
    "mbox", "textnormal", "texttt", "textsf", "emph",   "operatorname"};

constexpr std::array<absl::string_view, 9> kGreekWords = {
    "alpha", "beta", "gamma", "theta", "lambda", "sigma", "omega", "delta", "epsilon"};

constexpr std::array<absl::string_view, 60> kShortWords = {
    "is",  "it",  "of",  "to",  "the", "not", "so",   "be",  "we",  "as",  "at",  "by",
    "for", "in",  "on",  "if",  "no",  "yes", "are",  "has", "cm",  "mm",  "km",  "kg",
    "mg",  "ml",  "ft",  "yd",  "mi",  "lb",  "lbs",  "oz",  "hr",  "hrs", "min", "sec",
    "mph", "kph", "deg", "sq",  "am",  "pm",  "inch", "pct", "per", "and", "odd", "day",
    "men", "way", "can", "its", "his", "her", "all",  "any", "one", "two", "ten", "six"};

template <typename List>
bool Holds(const List& list, absl::string_view word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

}  // namespace

bool IsMathName(absl::string_view word) { return Holds(kNames, word); }
bool NeedsBackslash(absl::string_view name) { return Holds(kBackslashed, name); }

absl::string_view NameBefore(absl::string_view word) {
  for (const absl::string_view name : kNames) {
    if (word.size() > name.size() && word.size() <= name.size() + 2 &&
        word.substr(0, name.size()) == name && !NeedsBackslash(name))
      return name;
  }
  return {};
}

absl::string_view MarkOfCommand(absl::string_view name) {
  for (const auto& [from, to] : kCommandMarks) {
    if (from == name) return to;
  }
  return {};
}

bool IsSkippedCommand(absl::string_view name) { return Holds(kSkipped, name); }
bool SkipsArgument(absl::string_view name) { return Holds(kWithArgument, name); }
bool IsTextCommand(absl::string_view name) { return Holds(kTextCommands, name); }
bool IsGreekWord(absl::string_view word) { return Holds(kGreekWords, word); }
bool IsShortWord(absl::string_view lower) { return Holds(kShortWords, lower); }

}  // namespace espalier::reward

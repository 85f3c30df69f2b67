// A small table of exact factors; squares, cubes and plurals are derived.
#include "libs/reward/units.h"

#include <array>

namespace espalier::reward {
namespace {

struct Row {
  absl::string_view name;
  const char* dimension;
  const char* factor;
};

constexpr std::array<Row, 62> kRows = {{
    {"mm", "length", "1/1000"},
    {"millimeter", "length", "1/1000"},
    {"cm", "length", "1/100"},
    {"centimeter", "length", "1/100"},
    {"m", "length", "1"},
    {"meter", "length", "1"},
    {"metre", "length", "1"},
    {"km", "length", "1000"},
    {"kilometer", "length", "1000"},
    {"inch", "length", "127/5000"},
    {"inches", "length", "127/5000"},
    {"in", "length", "127/5000"},
    {"foot", "length", "381/1250"},
    {"feet", "length", "381/1250"},
    {"ft", "length", "381/1250"},
    {"yard", "length", "1143/1250"},
    {"yd", "length", "1143/1250"},
    {"mile", "length", "201168/125"},
    {"mi", "length", "201168/125"},
    {"mg", "mass", "1/1000000"},
    {"g", "mass", "1/1000"},
    {"gram", "mass", "1/1000"},
    {"kg", "mass", "1"},
    {"kilogram", "mass", "1"},
    {"ton", "mass", "1000"},
    {"tonne", "mass", "1000"},
    {"lb", "mass", "45359237/100000000"},
    {"pound", "mass", "45359237/100000000"},
    {"oz", "mass", "45359237/1600000000"},
    {"ounce", "mass", "45359237/1600000000"},
    {"s", "time", "1"},
    {"sec", "time", "1"},
    {"second", "time", "1"},
    {"min", "time", "60"},
    {"minute", "time", "60"},
    {"h", "time", "3600"},
    {"hr", "time", "3600"},
    {"hour", "time", "3600"},
    {"day", "time", "86400"},
    {"week", "time", "604800"},
    {"month", "months", "1"},
    {"year", "months", "12"},
    {"dollar", "money", "1"},
    {"cent", "money", "1/100"},
    {"euro", "euro", "1"},
    {"ml", "volume", "1/1000"},
    {"milliliter", "volume", "1/1000"},
    {"l", "volume", "1"},
    {"liter", "volume", "1"},
    {"litre", "volume", "1"},
    {"gallon", "volume", "473176473/125000000"},
    {"quart", "volume", "473176473/500000000"},
    {"mph", "speed", "1397/3125"},
    {"kph", "speed", "5/18"},
    {"km/h", "speed", "5/18"},
    {"m/s", "speed", "1"},
    {"miles per hour", "speed", "1397/3125"},
    {"kilometers per hour", "speed", "5/18"},
    {"meters per second", "speed", "1"},
    {"feet per second", "speed", "381/1250"},
    {"radian", "angle", "1"},
    {"rad", "angle", "1"},
}};

std::optional<Unit> Lookup(absl::string_view name) {
  for (const Row& row : kRows) {
    const bool plural = name.size() == row.name.size() + 1 && name.back() == 's' &&
                        row.name.size() > 2 && name.substr(0, row.name.size()) == row.name;
    if (name == row.name || plural) return Unit{row.dimension, mpq_class(row.factor, 10)};
  }
  return std::nullopt;
}

std::optional<Unit> Power(const std::optional<Unit>& unit, int power) {
  if (!unit) return std::nullopt;
  Unit result{unit->dimension + "^" + std::to_string(power), 1};
  for (int i = 0; i < power; ++i) result.factor *= unit->factor;
  return result;
}

}  // namespace

std::optional<Unit> FindUnit(absl::string_view words) {
  for (const absl::string_view square : {"square ", "sq "}) {
    if (words.substr(0, square.size()) == square)
      return Power(Lookup(words.substr(square.size())), 2);
  }
  if (words.substr(0, 6) == "cubic ") return Power(Lookup(words.substr(6)), 3);
  if (words.size() > 2 && words[words.size() - 2] == '^') {
    const char power = words.back();
    if (power == '2' || power == '3')
      return Power(Lookup(words.substr(0, words.size() - 2)), power - '0');
  }
  return Lookup(words);
}

bool IsUnitLetter(absl::string_view name) {
  return name.size() == 1 &&
         absl::string_view("msghLlNJWV").find(name[0]) != absl::string_view::npos;
}

}  // namespace espalier::reward

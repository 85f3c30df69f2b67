// describe_metrics golden|markdown: prints the reference of all metrics.
#include <iostream>
#include <string_view>

#include "tests/unit/observe/all_metrics.h"

int main(int argc, char** argv) {
  const std::string_view form = argc == 2 ? argv[1] : "";
  if (form != "golden" && form != "markdown") {
    std::cerr << "usage: describe_metrics golden|markdown\n";
    return 2;
  }
  std::cout << (form == "golden" ? espalier::observe::GoldenOfAllMetrics()
                                 : espalier::observe::ReferenceOfAllMetrics());
  return 0;
}

// Test helper: reads a text from standard input, trains BPE on its first half and prints
// tokenizer.json (one line), then the ids of the whole text (one line).
#include <iostream>
#include <iterator>
#include <string>

#include "libs/text/tokenizer.h"

int main(int argc, char** argv) {
  const std::string text((std::istreambuf_iterator<char>(std::cin)), {});
  const int vocabulary = argc > 1 ? std::stoi(argv[1]) : 300;
  const auto tokenizer =
      espalier::text::TrainBpe(absl::string_view(text).substr(0, text.size() / 2), vocabulary);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    return 1;
  }
  std::cout << (*tokenizer)->ToJson();
  for (const int id : (*tokenizer)->Encode(text)) std::cout << id << " ";
  std::cout << "\n";
}

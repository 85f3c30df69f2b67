// Keys of the store: order-preserving, and no run's keys lie within another's.
#include "libs/history/keys.h"

#include "libs/history/store.h"

namespace espalier::history {
namespace {

// An id ends with {0, 1}; a zero byte within it is written {0, 0xff}. So ids sort as they are, "a"
// before "a\0b" before "ab", and no terminated id is the beginning of another one.
void AppendId(std::string* key, const std::string& id) {
  for (const char c : id) {
    key->push_back(c);
    if (c == '\0') key->push_back('\xff');
  }
  key->append("\0\1", 2);
}

}  // namespace

void AppendBigEndian(std::string* out, uint64_t value, int bytes) {
  for (int i = bytes - 1; i >= 0; --i) out->push_back(static_cast<char>(value >> (8 * i)));
}

uint64_t ReadBigEndian(std::string_view bytes) {
  uint64_t value = 0;
  for (const char byte : bytes) value = value << 8 | static_cast<unsigned char>(byte);
  return value;
}

std::string Key(const std::string& id) {
  std::string key;
  AppendId(&key, id);
  return key;
}

std::string Key(const std::string& id, uint64_t number) {
  std::string key = Key(id);
  AppendBigEndian(&key, number, 8);
  return key;
}

std::string Key(const std::string& id, const std::string& second) {
  std::string key = Key(id);
  AppendId(&key, second);
  return key;
}

std::string KeyEnd(const std::string& id) {
  std::string key = Key(id);
  key.back() = '\2';  // the terminator's successor
  return key;
}

}  // namespace espalier::history

// Text to scalars and back. Numbers must be used up to the last character and fit their type.
#include "libs/spec/scalars.h"

#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "libs/observe/log.h"

namespace espalier::spec {
namespace {

template <typename T>
bool ParseNumber(const std::string& text, T* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

}  // namespace

bool SetScalar(google::protobuf::Message* message, const FieldDescriptor& field,
               const std::string& text) {
  const auto* reflection = message->GetReflection();
  const bool repeated = field.is_repeated();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32: {
      uint32_t value = 0;
      if (!ParseNumber(text, &value)) return false;
      repeated ? reflection->AddUInt32(message, &field, value)
               : reflection->SetUInt32(message, &field, value);
      return true;
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      uint64_t value = 0;
      if (!ParseNumber(text, &value)) return false;
      repeated ? reflection->AddUInt64(message, &field, value)
               : reflection->SetUInt64(message, &field, value);
      return true;
    }
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      double value = 0;
      if (!ParseNumber(text, &value) || !std::isfinite(value)) return false;
      repeated ? reflection->AddDouble(message, &field, value)
               : reflection->SetDouble(message, &field, value);
      return true;
    }
    case FieldDescriptor::CPPTYPE_BOOL: {
      if (text != "true" && text != "false") return false;
      repeated ? reflection->AddBool(message, &field, text == "true")
               : reflection->SetBool(message, &field, text == "true");
      return true;
    }
    case FieldDescriptor::CPPTYPE_ENUM: {
      const EnumValueDescriptor* value = FindEnumValue(*field.enum_type(), text);
      if (value == nullptr) return false;
      repeated ? reflection->AddEnum(message, &field, value)
               : reflection->SetEnum(message, &field, value);
      return true;
    }
    case FieldDescriptor::CPPTYPE_STRING:
      repeated ? reflection->AddString(message, &field, text)
               : reflection->SetString(message, &field, text);
      return true;
    default:
      LOG(FATAL) << "field " << field.full_name() << " has a type that run specs do not use";
  }
}

double NumberOf(const google::protobuf::Message& message, const FieldDescriptor& field, int index) {
  const auto* reflection = message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32:
      return index < 0 ? reflection->GetUInt32(message, &field)
                       : reflection->GetRepeatedUInt32(message, &field, index);
    case FieldDescriptor::CPPTYPE_UINT64:
      return static_cast<double>(index < 0 ? reflection->GetUInt64(message, &field)
                                           : reflection->GetRepeatedUInt64(message, &field, index));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return index < 0 ? reflection->GetDouble(message, &field)
                       : reflection->GetRepeatedDouble(message, &field, index);
    default:
      LOG(FATAL) << "field " << field.full_name() << " is no number";
  }
}

std::string ScalarText(const google::protobuf::Message& message, const FieldDescriptor& field,
                       int index) {
  const auto* reflection = message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT64:
      return absl::StrCat(index < 0 ? reflection->GetUInt64(message, &field)
                                    : reflection->GetRepeatedUInt64(message, &field, index));
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return NumberText(NumberOf(message, field, index));
    case FieldDescriptor::CPPTYPE_BOOL:
      return (index < 0 ? reflection->GetBool(message, &field)
                        : reflection->GetRepeatedBool(message, &field, index))
                 ? "true"
                 : "false";
    case FieldDescriptor::CPPTYPE_ENUM: {
      const int number = index < 0 ? reflection->GetEnumValue(message, &field)
                                   : reflection->GetRepeatedEnumValue(message, &field, index);
      const EnumValueDescriptor* value = field.enum_type()->FindValueByNumber(number);
      return value == nullptr ? absl::StrCat(number) : ShortName(*value);
    }
    case FieldDescriptor::CPPTYPE_STRING:
      return index < 0 ? reflection->GetString(message, &field)
                       : reflection->GetRepeatedString(message, &field, index);
    default:
      LOG(FATAL) << "field " << field.full_name() << " has a type that run specs do not use";
  }
}

}  // namespace espalier::spec

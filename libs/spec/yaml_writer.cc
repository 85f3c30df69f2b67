// RunSpec to YAML: only what is set, in the order of the schema, in a form that ParseRunSpec reads
// back to the same spec.
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "google/protobuf/message.h"
#include "libs/spec/scalars.h"
#include "libs/spec/spec.h"

namespace espalier::spec {
namespace {

using google::protobuf::Message;

// Text is always quoted: "no", "1e3" and "~" stay text then.
std::string YamlText(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (byte < 0x20 || byte == 0x7F) {
      absl::StrAppendFormat(&quoted, "\\x%02x", byte);
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

std::string YamlScalar(const Message& message, const FieldDescriptor& field, int index = -1) {
  const std::string text = ScalarText(message, field, index);
  return field.cpp_type() == FieldDescriptor::CPPTYPE_STRING ? YamlText(text) : text;
}

// Lines of the message's fields, each with `indent` spaces.
std::string WriteFields(const Message& message, int indent);

std::string WriteBelow(const Message& message, int indent) {
  const std::string lines = WriteFields(message, indent);
  return lines.empty() ? " {}\n" : "\n" + lines;
}

std::string WriteList(const Message& message, const FieldDescriptor& field, int indent) {
  const auto* reflection = message.GetReflection();
  const int count = reflection->FieldSize(message, &field);
  if (field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
    std::string items;
    for (int i = 0; i < count; ++i) {
      absl::StrAppend(&items, i == 0 ? "" : ", ", YamlScalar(message, field, i));
    }
    return absl::StrCat(" [", items, "]\n");
  }
  std::string lines = "\n";
  for (int i = 0; i < count; ++i) {
    std::string item = WriteFields(reflection->GetRepeatedMessage(message, &field, i), indent + 4);
    if (item.empty()) item = std::string(static_cast<size_t>(indent) + 4, ' ') + "{}\n";
    item[static_cast<size_t>(indent) + 2] = '-';
    lines += item;
  }
  return lines;
}

std::string WriteFields(const Message& message, int indent) {
  const auto* reflection = message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  std::string lines;
  for (const FieldDescriptor* field : fields) {
    absl::StrAppend(&lines, std::string(static_cast<size_t>(indent), ' '), field->name(), ":");
    if (field->is_repeated()) {
      lines += WriteList(message, *field, indent);
    } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      lines += WriteBelow(reflection->GetMessage(message, field), indent + 2);
    } else {
      absl::StrAppend(&lines, " ", YamlScalar(message, *field), "\n");
    }
  }
  return lines;
}

}  // namespace

std::string ToYaml(const v1::RunSpec& spec) {
  const std::string lines = WriteFields(spec, 0);
  return lines.empty() ? "{}\n" : lines;
}

}  // namespace espalier::spec

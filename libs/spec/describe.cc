// The reference of all fields, read off the descriptors.
#include "absl/strings/str_cat.h"
#include "libs/spec/fields.h"
#include "libs/spec/spec.h"

namespace espalier::spec {
namespace {

std::string TypeName(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64:
      return "integer";
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return "number";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "bool";
    case FieldDescriptor::CPPTYPE_ENUM:
      return "choice";
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return "map";
    default:
      return "text";
  }
}

void Describe(const google::protobuf::Descriptor& descriptor, const std::string& path,
              std::vector<FieldHelp>* out) {
  for (int i = 0; i < descriptor.field_count(); ++i) {
    const FieldDescriptor& field = *descriptor.field(i);
    const v1::FieldRules& rules = RulesOf(field);
    const std::string below =
        absl::StrCat(path, path.empty() ? "" : ".", field.name(), field.is_repeated() ? "[]" : "");
    const bool is_message = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    const bool is_kind = field.real_containing_oneof() != nullptr;
    if (!is_message || is_kind || !rules.help().empty()) {
      FieldHelp help;
      help.path = below;
      help.type = absl::StrCat(field.is_repeated() ? "list of " : "", TypeName(field));
      help.default_value =
          rules.required() || rules.min_items() > 0 ? "(required)" : rules.default_value();
      help.limits = is_kind ? "one kind a stage" : LimitWords(field);
      help.help = is_kind ? absl::StrCat("Makes this a ", field.name(), " stage") : rules.help();
      out->push_back(std::move(help));
    }
    if (is_message) Describe(*field.message_type(), below, out);
  }
}

}  // namespace

std::vector<FieldHelp> DescribeFields() {
  std::vector<FieldHelp> fields;
  Describe(*v1::RunSpec::descriptor(), "", &fields);
  return fields;
}

}  // namespace espalier::spec

// Defaults: every absent optional field takes the value that its rule names.
#include "google/protobuf/message.h"
#include "libs/observe/log.h"
#include "libs/spec/scalars.h"
#include "libs/spec/spec.h"

namespace espalier::spec {
namespace {

using google::protobuf::Message;

void Fill(Message* message) {
  const auto* descriptor = message->GetDescriptor();
  const auto* reflection = message->GetReflection();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor& field = *descriptor->field(i);
    const bool is_message = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (field.is_repeated()) {
      for (int k = 0; is_message && k < reflection->FieldSize(*message, &field); ++k) {
        Fill(reflection->MutableRepeatedMessage(message, &field, k));
      }
      continue;
    }
    const bool has = field.has_presence() && reflection->HasField(*message, &field);
    if (is_message) {
      // A missing required part stays missing, so that validation can name it; a kind is never
      // chosen by default.
      const bool leave = RulesOf(field).required() || field.real_containing_oneof() != nullptr;
      if (has || !leave) Fill(reflection->MutableMessage(message, &field));
      continue;
    }
    const std::string& value = RulesOf(field).default_value();
    if (has || !field.has_presence() || value.empty()) continue;
    CHECK(SetScalar(message, field, value)) << field.full_name() << " has a bad default: " << value;
  }
}

}  // namespace

void FillDefaults(v1::RunSpec* spec) { Fill(spec); }

}  // namespace espalier::spec

// Scalars of a message by reflection: set from text, read as text.
#pragma once

#include <string>

#include "google/protobuf/message.h"
#include "libs/spec/fields.h"

namespace espalier::spec {

// Sets (or, for a repeated field, appends) a scalar from its text as it stands in YAML. False when
// it is not of the type or does not fit it; nothing is set then. Bounds of the rules are not looked
// at.
bool SetScalar(google::protobuf::Message* message, const FieldDescriptor& field,
               const std::string& text);

// Value of a scalar as text that SetScalar reads; `index` is the element of a repeated field, -1
// otherwise.
std::string ScalarText(const google::protobuf::Message& message, const FieldDescriptor& field,
                       int index = -1);

// Numeric value, of number fields only.
double NumberOf(const google::protobuf::Message& message, const FieldDescriptor& field,
                int index = -1);

}  // namespace espalier::spec

// What the descriptors say of a field, in the words that errors and the reference use: rules, type,
// limits, names of enum values.
#pragma once

#include <string>
#include <vector>

#include "espalier/v1/rules.pb.h"
#include "google/protobuf/descriptor.h"

namespace espalier::spec {

using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;

const v1::FieldRules& RulesOf(const FieldDescriptor& field);

// "sigmoid" of ROUTER_KIND_SIGMOID.
std::string ShortName(const EnumValueDescriptor& value);
// All names that may be given (the unspecified one may not).
std::vector<std::string> ShortNames(const EnumDescriptor& type);
// By short or full name, in any case; null when there is none.
const EnumValueDescriptor* FindEnumValue(const EnumDescriptor& type, const std::string& name);

// "a whole number", "true or false", …
std::string TypeWords(const FieldDescriptor& field);
// "from 1 to 1024", "above 0", "softmax or sigmoid"; empty when anything goes.
std::string LimitWords(const FieldDescriptor& field);
// Both: what may stand in the field.
std::string AllowedWords(const FieldDescriptor& field);

// Whether the rules' bounds hold for `value`; NaN and infinities do not.
bool WithinBounds(const FieldDescriptor& field, double value);

// The closest of `names`, when it is close enough to have been meant; else empty.
std::string NearName(const std::string& name, const std::vector<std::string>& names);

// "a, b or c".
std::string OrWords(const std::vector<std::string>& words);

// Shortest text that reads back as `value`.
std::string NumberText(double value);

// Quotes a value for an error, cut to a readable length.
std::string Quoted(const std::string& value);

}  // namespace espalier::spec

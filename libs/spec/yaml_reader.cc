// YAML to RunSpec, driven by the descriptors: the schema decides what is looked at, so depth and
// work are bounded whatever the file holds (aliases included, which stay shared).
#include <set>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "google/protobuf/message.h"
#include "libs/base/status_macros.h"
#include "libs/spec/errors.h"
#include "libs/spec/scalars.h"
#include "libs/spec/spec.h"
#include "yaml-cpp/eventhandler.h"
#include "yaml-cpp/yaml.h"

namespace espalier::spec {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::Message;

constexpr size_t kYamlBytesMax = 1 << 20;
constexpr int kNestingMax =
    32;  // the schema needs five; the parser's own limit overflows small stacks

std::string Where(const std::string& path, const YAML::Node& node) {
  const YAML::Mark mark = node.Mark();
  if (mark.line < 0) return path;
  return absl::StrCat(path, path.empty() ? "" : " ", "(line ", mark.line + 1, ")");
}

std::string FoundWords(const YAML::Node& node) {
  switch (node.Type()) {
    case YAML::NodeType::Scalar:
      return Quoted(node.Scalar());
    case YAML::NodeType::Sequence:
      return absl::StrCat("a list of ", node.size());
    case YAML::NodeType::Map:
      return "a map";
    default:
      return "nothing";
  }
}

std::vector<std::string> FieldNames(const Descriptor& descriptor) {
  std::vector<std::string> names;
  for (int i = 0; i < descriptor.field_count(); ++i) names.push_back(descriptor.field(i)->name());
  return names;
}

class Reader {
 public:
  explicit Reader(ErrorList* errors) : errors_(errors) {}

  void ReadMessage(const YAML::Node& node, const std::string& path, Message* message) {
    if (node.IsNull()) return;  // "export:" with nothing behind it
    if (!node.IsMap()) {
      errors_->Add(Where(path.empty() ? "run spec" : path, node),
                   absl::StrCat("found ", FoundWords(node), ", a map of fields is expected"));
      return;
    }
    const Descriptor& descriptor = *message->GetDescriptor();
    std::set<std::string> seen;
    for (const auto& entry : node) {
      if (!entry.first.IsScalar()) {
        errors_->Add(Where(path, entry.first),
                     absl::StrCat("found ", FoundWords(entry.first), " as a field's name"));
        continue;
      }
      const std::string& name = entry.first.Scalar();
      const std::string below = absl::StrCat(path, path.empty() ? "" : ".", name);
      const FieldDescriptor* field = descriptor.FindFieldByName(name);
      if (field == nullptr) {
        AddUnknown(path, entry.first, descriptor);
      } else if (!seen.insert(name).second) {
        errors_->Add(Where(below, entry.first), "given twice; keep one of them");
      } else {
        CheckOneof(*field, path, entry.first, *message);
        ReadField(entry.second, below, *field, message);
      }
    }
  }

  void ReadField(const YAML::Node& node, const std::string& path, const FieldDescriptor& field,
                 Message* message) {
    const auto* reflection = message->GetReflection();
    const bool is_message = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
    if (!field.is_repeated()) {
      if (is_message) return ReadMessage(node, path, reflection->MutableMessage(message, &field));
      return ReadScalar(node, path, field, message);
    }
    if (!node.IsSequence()) {
      errors_->Add(Where(path, node),
                   absl::StrCat("found ", FoundWords(node), ", a list is expected"));
      return;
    }
    const size_t items_max =
        RulesOf(field).has_max_items() ? RulesOf(field).max_items() : kItemsMax;
    if (node.size() > items_max) {
      errors_->Add(Where(path, node), absl::StrCat("found ", node.size(), " items, at most ",
                                                   items_max, " are allowed"));
      return;
    }
    for (size_t i = 0; i < node.size(); ++i) {
      const std::string below = absl::StrCat(path, "[", i, "]");
      if (is_message) {
        ReadMessage(node[i], below, reflection->AddMessage(message, &field));
      } else {
        ReadScalar(node[i], below, field, message);
      }
    }
  }

 private:
  static constexpr size_t kItemsMax = 65536;

  void ReadScalar(const YAML::Node& node, const std::string& path, const FieldDescriptor& field,
                  Message* message) {
    const bool is_text = field.cpp_type() == FieldDescriptor::CPPTYPE_STRING;
    // Quotes make text of a number; protobuf's JSON quotes 64-bit numbers and names of enum values,
    // though.
    const bool quoted = node.IsScalar() && node.Tag() == "!";
    const bool may_be_quoted = is_text || field.cpp_type() == FieldDescriptor::CPPTYPE_UINT64 ||
                               field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM;
    if (!node.IsScalar() || (quoted && !may_be_quoted) ||
        (is_text && !IsPlainText(node.Scalar())) || !SetScalar(message, field, node.Scalar())) {
      std::string hint;
      if (quoted && !may_be_quoted) hint = " (without quotes)";
      if (node.IsScalar() && field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
        const std::string near = NearName(node.Scalar(), ShortNames(*field.enum_type()));
        if (!near.empty()) hint = absl::StrCat("; did you mean ", near, "?");
      }
      errors_->Add(Where(path, node), absl::StrCat("found ", FoundWords(node), ", allowed is ",
                                                   AllowedWords(field), hint));
    }
  }

  // Protobuf refuses strings that are not UTF-8 only when they are sent.
  static bool IsPlainText(const std::string& text) {
    for (size_t i = 0; i < text.size(); ++i) {
      const unsigned char c = static_cast<unsigned char>(text[i]);
      if (c < 0x20 || c == 0x7F) return false;
    }
    return google::protobuf::internal::IsStructurallyValidUTF8(text.data(),
                                                               static_cast<int>(text.size()));
  }

  void AddUnknown(const std::string& path, const YAML::Node& key, const Descriptor& descriptor) {
    const std::vector<std::string> names = FieldNames(descriptor);
    const std::string near = NearName(key.Scalar(), names);
    const std::string name = key.Scalar().size() > 64 ? Quoted(key.Scalar()) : key.Scalar();
    errors_->Add(Where(absl::StrCat(path, path.empty() ? "" : ".", name), key),
                 near.empty() ? absl::StrCat("no such field; allowed are ", OrWords(names))
                              : absl::StrCat("no such field; did you mean ", near, "?"));
  }

  void CheckOneof(const FieldDescriptor& field, const std::string& path, const YAML::Node& key,
                  const Message& message) {
    const auto* oneof = field.real_containing_oneof();
    if (oneof == nullptr || !message.GetReflection()->HasOneof(message, oneof)) return;
    const auto* other = message.GetReflection()->GetOneofFieldDescriptor(message, oneof);
    errors_->Add(Where(path, key), absl::StrCat("found both ", other->name(), " and ", field.name(),
                                                "; one of them is allowed, the other belongs in "
                                                "an item of its own"));
  }

  ErrorList* errors_;
};

// Follows the parser's events without keeping anything: ends documents that nest deeper than any
// spec does.
class ShapeCheck : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override { content_ = true; }
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override { content_ = true; }
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {
    content_ = true;
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    Enter(mark);
  }
  void OnSequenceEnd() override { --depth_; }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    Enter(mark);
  }
  void OnMapEnd() override { --depth_; }

  bool has_content() const { return content_; }

 private:
  void Enter(const YAML::Mark& mark) {
    content_ = true;
    if (++depth_ > kNestingMax) {
      throw YAML::ParserException(mark,
                                  absl::StrCat("nested deeper than ", kNestingMax, " levels"));
    }
  }

  int depth_ = 0;
  bool content_ = false;
};

// One document of sane depth. The parser's own loop over documents is not used: some input makes it
// find empty ones for ever.
absl::Status CheckShape(const std::string& yaml) {
  if (yaml.size() > kYamlBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("run spec: ", yaml.size(), " bytes, at most ", kYamlBytesMax, " are allowed"));
  }
  std::istringstream input(yaml);
  YAML::Parser parser(input);
  ShapeCheck first, second;
  if (!parser.HandleNextDocument(first) || !first.has_content()) {
    return absl::InvalidArgumentError("run spec: empty; `espalier run fields` lists what it holds");
  }
  if (parser.HandleNextDocument(second)) {
    return absl::InvalidArgumentError("run spec: found more than one document, one is allowed");
  }
  return absl::OkStatus();
}

absl::StatusOr<YAML::Node> Load(const std::string& yaml) {
  try {
    RETURN_IF_ERROR(CheckShape(yaml));
    const YAML::Node root = YAML::Load(yaml);
    if (root.IsDefined() && !root.IsNull()) return root;
    return absl::InvalidArgumentError("run spec: empty; `espalier run fields` lists what it holds");
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("run spec: not YAML: ", error.msg, " (line ", error.mark.line + 1, ")"));
  } catch (const std::exception& error) {  // yaml-cpp lets a few of the library's own pass
    return absl::InvalidArgumentError(absl::StrCat("run spec: not YAML: ", error.what()));
  }
}

// Walks to the parent of the last field of `path`, making messages on the way.
absl::Status SetAt(Message* message, const std::string& path, const YAML::Node& value) {
  std::string done;
  for (size_t begin = 0;;) {
    const size_t end = path.find('.', begin);
    std::string name = path.substr(begin, end == std::string::npos ? end : end - begin);
    int index = -1;
    if (const size_t bracket = name.find('['); bracket != std::string::npos) {
      const std::string digits = name.substr(bracket + 1);
      if (digits.size() < 2 || digits.size() > 6 || digits.back() != ']' ||
          digits.find_first_not_of("0123456789") != digits.size() - 1) {
        return absl::InvalidArgumentError(absl::StrCat(path, ": bad index; write name[0]"));
      }
      index = std::stoi(digits);
      name.resize(bracket);
    }
    absl::StrAppend(&done, done.empty() ? "" : ".", name);
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(name);
    if (field == nullptr) {
      const auto names = FieldNames(*message->GetDescriptor());
      const std::string near = NearName(name, names);
      return absl::InvalidArgumentError(absl::StrCat(
          done, ": no such field; ",
          near.empty() ? "allowed are " + OrWords(names) : "did you mean " + near + "?"));
    }
    const auto* reflection = message->GetReflection();
    if (index >= 0) {
      if (!field->is_repeated() || index >= reflection->FieldSize(*message, field) ||
          field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE || end == std::string::npos) {
        return absl::InvalidArgumentError(
            absl::StrCat(done, "[", index, "]: no such item to set a field of; the list has ",
                         field->is_repeated() ? reflection->FieldSize(*message, field) : 0));
      }
      message = reflection->MutableRepeatedMessage(message, field, index);
      absl::StrAppend(&done, "[", index, "]");
    } else if (end == std::string::npos) {
      reflection->ClearField(message, field);
      ErrorList errors;
      Reader(&errors).ReadField(value, done, *field, message);
      return errors.ToStatus();
    } else if (field->is_repeated() || field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      return absl::InvalidArgumentError(absl::StrCat(
          done, ": has no fields of its own", field->is_repeated() ? "; write name[0].field" : ""));
    } else {
      message = reflection->MutableMessage(message, field);
    }
    begin = end + 1;
  }
}

}  // namespace

absl::StatusOr<v1::RunSpec> ParseRunSpec(const std::string& yaml) {
  ASSIGN_OR_RETURN(const YAML::Node root, Load(yaml));
  v1::RunSpec spec;
  ErrorList errors;
  try {
    Reader(&errors).ReadMessage(root, "", &spec);
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("run spec: not YAML: ", error.what()));
  }
  RETURN_IF_ERROR(errors.ToStatus());
  return spec;
}

absl::Status SetField(v1::RunSpec* spec, const std::string& path, const std::string& value) {
  ASSIGN_OR_RETURN(const YAML::Node node, Load(value));
  try {
    return SetAt(spec, path, node);
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not YAML: ", error.what()));
  }
}

}  // namespace espalier::spec

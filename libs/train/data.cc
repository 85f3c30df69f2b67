// Only rank 0 touches the corpus: workers on other machines need not have it, and it is encoded
// once.
#include "libs/train/data.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "libs/base/status_macros.h"
#include "libs/text/corpus.h"
#include "libs/train/aside.h"

namespace espalier::train {
namespace {

// Merges settle on far less text than a corpus may hold; this much is read in evenly spaced pieces.
constexpr size_t kTokenizerSampleBytes = size_t{4} << 20;
constexpr size_t kTokenizerPieces = 64;

std::string CorpusSample(const std::string& text) {
  if (text.size() <= kTokenizerSampleBytes) return text;
  std::string sample;
  const size_t piece = kTokenizerSampleBytes / kTokenizerPieces;
  for (size_t i = 0; i < kTokenizerPieces; ++i) {
    sample.append(text, text.size() / kTokenizerPieces * i, piece);
    sample.push_back('\n');
  }
  return sample;
}

absl::StatusOr<std::string> MakeTokenizerJson(const v1::RunSpec& spec,
                                              const std::string& train_text) {
  const v1::DataSpec& data = spec.data();
  if (data.tokenizer() == v1::TOKENIZER_KIND_BYTES) return text::MakeByteTokenizer()->ToJson();
  std::string sample = CorpusSample(train_text);
  const text::TaskOptions task = ToTaskOptions(data.task());
  for (uint32_t i = 0; i < data.task_traces_in_tokenizer(); ++i) {
    const text::Problem problem = text::MakeProblem(task, spec.seed(), i, /*heldout=*/false);
    sample.append(problem.prompt).append(problem.trace).append("\n");
  }
  auto tokenizer = text::TrainBpe(sample, static_cast<int>(data.vocabulary()));
  if (!tokenizer.ok()) {
    return absl::Status(tokenizer.status().code(),
                        absl::StrCat("data.vocabulary: ", tokenizer.status().message()));
  }
  return (*tokenizer)->ToJson();
}

// Every pretrain stage must be able to draw at least one window from the corpus.
absl::Status CheckSizes(const v1::RunSpec& spec, size_t first_stage, size_t train, size_t heldout) {
  for (int i = static_cast<int>(first_stage); i < spec.stages_size(); ++i) {
    if (!spec.stages(i).has_pretrain()) continue;
    const uint64_t needed = uint64_t{spec.stages(i).pretrain().sequence_length()} + 1;
    if (train < needed) {
      return absl::InvalidArgumentError(absl::StrCat(
          "data.corpus: ", spec.data().corpus(), " has ", train, " training tokens, but stages[", i,
          "].pretrain.sequence_length needs at least ", needed,
          ": take a larger corpus or shorter sequences"));
    }
    if (heldout < 2) {
      return absl::InvalidArgumentError(absl::StrCat(
          "data.heldout_fraction: ", spec.data().heldout_fraction(), " of ", spec.data().corpus(),
          " leaves ", heldout, " held-out tokens, at least 2 are needed: take a larger share"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<RunData> ReadOnRoot(const v1::RunSpec& spec, const std::string& data_root,
                                   size_t first_stage, const std::string& tokenizer_json) {
  RunData data;
  bool pretrains = false;
  for (int i = static_cast<int>(first_stage); i < spec.stages_size(); ++i) {
    pretrains = pretrains || spec.stages(i).has_pretrain();
  }
  const bool trains_tokenizer =
      tokenizer_json.empty() && spec.data().tokenizer() != v1::TOKENIZER_KIND_BYTES;
  text::CorpusSplit split;
  if (pretrains || trains_tokenizer) {
    ASSIGN_OR_RETURN(const std::string text,
                     text::ReadCorpus(ResolvePath(data_root, spec.data().corpus())));
    split = text::SplitCorpus(text, spec.data().heldout_fraction());
  }
  data.tokenizer_json = tokenizer_json;
  if (tokenizer_json.empty()) {
    ASSIGN_OR_RETURN(data.tokenizer_json, MakeTokenizerJson(spec, split.train));
  }
  ASSIGN_OR_RETURN(data.tokenizer, text::TokenizerFromJson(data.tokenizer_json));
  if (pretrains) {
    data.train = data.tokenizer->Encode(split.train);
    data.heldout = data.tokenizer->Encode(split.heldout);
    RETURN_IF_ERROR(CheckSizes(spec, first_stage, data.train.size(), data.heldout.size()));
  }
  return data;
}

absl::Status BroadcastTokens(collective::Communicator& communicator, std::vector<int32_t>* tokens) {
  std::string bytes;
  if (communicator.rank() == 0) {
    bytes.assign(reinterpret_cast<const char*>(tokens->data()), tokens->size() * sizeof(int32_t));
  }
  RETURN_IF_ERROR(communicator.Broadcast(0, &bytes));
  if (communicator.rank() == 0) return absl::OkStatus();
  tokens->resize(bytes.size() / sizeof(int32_t));
  if (!tokens->empty()) std::memcpy(tokens->data(), bytes.data(), bytes.size());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RunData> PrepareData(const v1::RunSpec& spec, const std::string& data_root,
                                    size_t first_stage, const std::string& tokenizer_json,
                                    collective::Communicator& communicator) {
  RunData data;
  RETURN_IF_ERROR(RunAside(communicator, [&]() -> absl::Status {
    if (communicator.rank() != 0) return absl::OkStatus();
    ASSIGN_OR_RETURN(data, ReadOnRoot(spec, data_root, first_stage, tokenizer_json));
    return absl::OkStatus();
  }));
  if (communicator.size() == 1) return data;
  RETURN_IF_ERROR(communicator.Broadcast(0, &data.tokenizer_json));
  RETURN_IF_ERROR(BroadcastTokens(communicator, &data.train));
  RETURN_IF_ERROR(BroadcastTokens(communicator, &data.heldout));
  if (data.tokenizer == nullptr) {
    ASSIGN_OR_RETURN(data.tokenizer, text::TokenizerFromJson(data.tokenizer_json));
  }
  return data;
}

std::string ResolvePath(const std::string& root, const std::string& path) {
  return (std::filesystem::path(root) / path).string();
}

Share ShareOf(int64_t total, int rank, int rank_count) {
  return {total * rank / rank_count, total * (rank + 1) / rank_count};
}

model::Batch EmptyBatch() {
  model::Batch batch;
  batch.starts = {0};
  return batch;
}

void AppendWindow(const std::vector<int32_t>& tokens, int64_t begin, int64_t length,
                  model::Batch* batch) {
  const auto first = tokens.begin() + begin;
  batch->tokens.insert(batch->tokens.end(), first, first + length);
  batch->targets.insert(batch->targets.end(), first + 1, first + length + 1);
  batch->starts.push_back(static_cast<int64_t>(batch->tokens.size()));
}

void AppendTrained(const std::vector<int32_t>& tokens, size_t first_trained, model::Batch* batch) {
  for (size_t i = 0; i + 1 < tokens.size(); ++i) {
    batch->tokens.push_back(tokens[i]);
    batch->targets.push_back(i + 1 >= first_trained ? tokens[i + 1] : -1);
  }
  batch->starts.push_back(static_cast<int64_t>(batch->tokens.size()));
}

int64_t CountTargets(const model::Batch& batch) {
  return std::count_if(batch.targets.begin(), batch.targets.end(),
                       [](int32_t t) { return t >= 0; });
}

text::TaskOptions ToTaskOptions(const v1::ReasoningTaskSpec& spec) {
  text::TaskOptions options;
  options.steps_min = static_cast<int>(spec.steps_min());
  options.steps_max = static_cast<int>(spec.steps_max());
  options.value_max = static_cast<int>(spec.value_max());
  options.operand_max = static_cast<int>(spec.operand_max());
  options.factor_max = static_cast<int>(spec.factor_max());
  options.recheck_rate = spec.recheck_rate();
  options.recheck_max = static_cast<int>(spec.recheck_max());
  options.slip_rate = spec.slip_rate();
  return options;
}

EncodedProblem EncodeProblem(const text::Tokenizer& tokenizer, const text::Problem& problem) {
  EncodedProblem encoded;
  encoded.prompt.push_back(text::Tokenizer::kBegin);
  const std::vector<int32_t> prompt = tokenizer.Encode(problem.prompt);
  encoded.prompt.insert(encoded.prompt.end(), prompt.begin(), prompt.end());
  encoded.trace = tokenizer.Encode(problem.trace);
  encoded.trace.push_back(text::Tokenizer::kEnd);
  encoded.reference = problem.reference;
  return encoded;
}

uint64_t ProblemIndex(uint32_t stage_index, uint64_t step, uint64_t batch, uint64_t i) {
  return (uint64_t{stage_index} << 40) + (step - 1) * batch + i;
}

uint64_t MixSeed(uint64_t seed, uint64_t a, uint64_t b) {
  uint64_t state = seed;
  for (const uint64_t part : {a, b}) {
    state += 0x9E3779B97F4A7C15ull * (part + 1);  // SplitMix64
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9ull;
    state = (state ^ (state >> 27)) * 0x94D049BB133111EBull;
    state ^= state >> 31;
  }
  return state;
}

}  // namespace espalier::train

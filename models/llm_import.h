// A catalogue entry from a model's config.json, as the Hugging Face hub has it.
//
// config.json leaves out what the model's own code knows: whether embeddings are tied where it does not say so, whether query,
// key and value have biases, whether experts are as wide as an MLP. That is a table of architectures in llm_import.cc, from the
// configuration classes of transformers. A model_type that is not in the table is read as a Llama whose config.json says
// everything.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/llm_spec.h"

namespace poolsim {

struct LlmImport {
  LlmSpec llm;
  std::vector<std::string> remarks;  // what the entry leaves out or takes for granted
};

// Whether a JSON document is a config.json rather than a catalogue entry.
bool IsHuggingFaceConfig(const Json& json);

// `file` names the config.json in messages. `name` of the entry; empty: the hub's name where the config.json tells it, else the
// file's name or, for a plain "config.json", its folder's. Throws InputError, with the key: missing, or not understood
// (state-space and linear attention layers, encoders, packings of weights other than 8 or 4 bits).
LlmImport ImportLlm(std::string_view text, const std::string& file, const std::string& name = "");

// A catalogue entry or a config.json, whichever it is. Throws InputError.
LlmSpec ReadLlmFile(const std::string& path);

}  // namespace poolsim

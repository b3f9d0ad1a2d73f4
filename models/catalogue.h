// The catalogue: what GPUs and LLMs are, as data. One file per entry under models/gpus/ and models/llms/, compiled into the
// executable (sim/embedded.h), read once, on first use, by any thread, and immutable from then on.
//
// Names are compared without regard to case; '-', '_', '.', and a blank are one separator; what stands before the last '/'
// (the organisation in a Hugging Face name) is dropped. So "Qwen/Qwen2.5-7B", "qwen2_5_7b" and "qwen2.5-7b" are one name. An
// entry has one catalogue name and any number of aliases; two entries may not share one.
//
// sim/cost_model.h declares what the engine sees of it: FindGpu, CanonicalLlm, the lists of names and the listings.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/gpu_spec.h"
#include "models/llm_spec.h"
#include "sim/embedded.h"

namespace poolsim {

// All entries, ordered by name.
const std::vector<GpuSpec>& Gpus();
const std::vector<LlmSpec>& Llms();

// By name or alias; throw InputError with the nearest known name. A name that ends in ".json" is a file instead: an entry of its
// own or, for an LLM, a Hugging Face config.json (models/llm_import.h), read once. Its spec's name is the path as given, so that
// the name finds it again, and its own name is an alias; InputError where it cannot be read. The references live as long as the
// program. Safe from several threads.
const GpuSpec& GpuByName(std::string_view name);
const LlmSpec& LlmByName(std::string_view name);

// Whether `name` is the entry's name or one of its aliases: how a profile's rows find entries from files too.
bool IsCalled(const GpuSpec& gpu, std::string_view name);
bool IsCalled(const LlmSpec& llm, std::string_view name);

}  // namespace poolsim

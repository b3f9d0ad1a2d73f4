#include "planning/request_set.h"

namespace poolsim {
namespace {

class SetSource final : public RequestSource {
 public:
  explicit SetSource(std::shared_ptr<const RequestSet> set) : set_(std::move(set)) {}
  bool Next(RequestSpec& out) override {
    if (static_cast<std::size_t>(counts_.rows_read) == set_->rows.size()) return false;
    out = set_->rows[static_cast<std::size_t>(counts_.rows_read++)];
    return true;
  }
  const SourceCounts& counts() const override { return counts_; }
  const ModelNames& names() const override { return set_->names; }

 private:
  std::shared_ptr<const RequestSet> set_;
  SourceCounts counts_;
};

}  // namespace

RequestSet RequestSet::Only(const std::vector<std::int32_t>& models) const {
  RequestSet only;
  std::vector<std::int32_t> number(names.models().size(), -1);
  for (const std::int32_t m : models) {
    const ModelNames::Model& model = names.models()[static_cast<std::size_t>(m)];
    number[static_cast<std::size_t>(m)] = only.names.Intern(model.name, model.base);
  }
  for (RequestSpec r : rows) {
    if ((r.model = number[static_cast<std::size_t>(r.model)]) >= 0) only.rows.push_back(r);
  }
  return only;
}

RequestSet ReadRequests(const Scenario& scenario) {
  const std::unique_ptr<RequestSource> source = OpenScenarioWorkload(scenario);
  RequestSet set;
  RequestSpec spec;
  while (source->Next(spec)) set.rows.push_back(spec);
  set.names = source->names();
  return set;
}

std::unique_ptr<RequestSource> OpenRequests(std::shared_ptr<const RequestSet> set) {
  return std::make_unique<SetSource>(std::move(set));
}

WorkloadFacts FactsOf(const WorkloadFacts& facts, const std::vector<std::int32_t>& models) {
  WorkloadFacts only;
  for (const std::int32_t m : models) {
    const ModelNames::Model& model = facts.names.models()[static_cast<std::size_t>(m)];
    only.names.Intern(model.name, model.base);
    only.forecast.push_back(facts.forecast[static_cast<std::size_t>(m)]);
    only.seen.requests += only.forecast.back().requests;
  }
  return only;
}

}  // namespace poolsim

#include "sim/shards.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <mutex>
#include <numeric>
#include <span>
#include <system_error>

#include <unistd.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "sim/checkpoint.h"
#include "sim/errors.h"
#include "sim/nodes.h"
#include "sim/report.h"
#include "sim/team.h"
#include "sim/timeline.h"

namespace poolsim {
namespace {

constexpr std::int64_t kRowsAtOnce = 4096;             // of a shard that reads for itself
constexpr std::int64_t kRowsBetweenDoubts = 512;       // of a run that may be hopeless
constexpr std::int64_t kLeastWindow = 1 << 14;         // rows that shards which advance together get at a time ...
constexpr std::int64_t kMostWindow = 1 << 18;          // ... at most, of 24 bytes each
constexpr std::int64_t kWindowRowsPerShard = 1 << 10;  // enough to make up for bringing a shard into the cache

struct Shard {
  std::size_t pool = 0;
  std::vector<std::int32_t> models;  // by the pool's numbers; the shard's model i is models[i]
  bool part = false;                 // of a separable pool: `plan` is what the pool's placement gave to it
  std::vector<InstanceFacts> plan;
  std::vector<NodePacking::Place> places;  // of the plan's instances in the pool
  std::int64_t cell = 0;
  std::int64_t cells = 1;
  std::int64_t first_instance = 0;  // of the fleet; set when all pools are planned
  std::int64_t instances = 0;
};

// Shards that are fed from one source.
struct Group {
  std::vector<std::int32_t> models;  // of the workload, sorted
  std::size_t first = 0;             // shards first .. first + count - 1
  std::size_t count = 0;
  double expected = 0;  // requests
  // How far it has come, as far as checkpoints go.
  std::int64_t reads = 0;  // pieces of the workload that its shards have been given
  std::uint64_t hash = 0;  // of the requests in them
  bool done = false;
  void State(Archive& a) { a(reads, hash, done); }
};

// Where the requests of a model of the workload go.
struct Route {
  std::size_t first = 0;  // shard of its first cell
  std::uint64_t cells = 1;
  std::uint64_t instances = 1;  // that take arrivals: cell c has every cells-th of them
  std::uint64_t key = 0;        // of the draws
  ModelId model = 0;            // by the shard's numbers
  std::uint64_t name_hash = 0;
  std::uint64_t dealt = 0;  // requests so far
};

// Rows of requests.csv in the order of shards, whatever the order in which they come: each shard's wait in a file that has no
// name, or that of a run's checkpoints.
class RowSpool {
 public:
  explicit RowSpool(std::size_t shards) : pieces_(shards), file_(std::tmpfile()) {
    if (file_ == nullptr) Refuse();
  }
  // `goes_on`: what State reads is in the file already.
  RowSpool(std::size_t shards, const std::string& file, bool goes_on)
      : name_(file), pieces_(shards), file_(std::fopen(file.c_str(), goes_on ? "r+b" : "w+b")) {
    if (file_ == nullptr) Refuse();
  }
  ~RowSpool() { std::fclose(file_); }
  RowSpool(const RowSpool&) = delete;
  RowSpool& operator=(const RowSpool&) = delete;

  void Append(std::size_t shard, std::string& rows) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (std::fwrite(rows.data(), 1, rows.size(), file_) != rows.size()) Refuse();
    pieces_[shard].push_back({end_, rows.size()});
    end_ += rows.size();
    rows.clear();
  }
  // What has been appended is on disk, and what came later than the state is written over.
  void State(Archive& a) {
    if (std::fflush(file_) != 0 || fdatasync(fileno(file_)) != 0) Refuse();
    a(pieces_, end_);
    if (!a.reads()) return;
    if (fseeko(file_, 0, SEEK_END) != 0 || ftello(file_) < static_cast<off_t>(end_))
      throw InputError(fmt::format("{}: it is shorter than it was; it belongs to the checkpoint", name_));
    if (fseeko(file_, static_cast<off_t>(end_), SEEK_SET) != 0) Refuse();
  }
  void EmitTo(const std::function<void(std::string_view)>& sink) {
    std::string rows;
    for (const auto& pieces : pieces_) {
      for (const Piece& piece : pieces) {
        rows.resize(piece.size);
        if (fseeko(file_, static_cast<off_t>(piece.at), SEEK_SET) != 0) Refuse();
        if (std::fread(rows.data(), 1, piece.size, file_) != piece.size) Refuse();
        sink(rows);
      }
    }
  }

 private:
  struct Piece {
    std::size_t at;
    std::size_t size;
  };
  [[noreturn]] void Refuse() const {
    throw InputError(fmt::format("{}, which keeps rows of requests.csv: {}", name_.empty() ? "a temporary file" : name_,
                                 std::generic_category().message(errno)));
  }

  std::string name_;  // empty: it has none
  std::mutex mutex_;
  std::vector<std::vector<Piece>> pieces_;
  std::FILE* file_;
  std::size_t end_ = 0;
};

// While a thread works, nobody may write a checkpoint.
class Working {
 public:
  explicit Working(RestPoint* rest) : rest_(rest) {
    if (rest_ != nullptr) rest_->Enter();
  }
  ~Working() {
    if (rest_ != nullptr) rest_->Leave();
  }
  Working(const Working&) = delete;
  Working& operator=(const Working&) = delete;

 private:
  RestPoint* rest_;
};

// Hands the engine what the pool's placement has made.
class PartOfPlan final : public Placement {
 public:
  explicit PartOfPlan(const std::vector<InstanceFacts>& plan) : plan_(plan) {}
  std::vector<InstanceFacts> Place(const FleetFacts&, const std::vector<ModelFacts>&, const PriceView&) override { return plan_; }

 private:
  const std::vector<InstanceFacts>& plan_;
};

class Run {
 public:
  Run(const Scenario& s, const std::vector<PoolPlan>& plans, const WorkloadFacts& facts, const RunOptions& options)
      : s_(s), plans_(plans), facts_(facts), options_(options) {}

  ShardsResult All();

 private:
  // A shard while it runs.
  struct Running {
    std::vector<ModelFacts> models;
    std::unique_ptr<Prices> prices;
    std::unique_ptr<PartOfPlan> part;
    std::unique_ptr<PoolParts> policy;
    std::unique_ptr<Engine> engine;
    std::unique_ptr<SpanObserver> spans;
    std::vector<std::string> names;  // of models, as CSV cells
    std::string rows;                // of requests.csv, that are not in the spool yet
  };

  void PreparePool(std::size_t p);
  void CutByModel(std::size_t p, const std::vector<InstanceFacts>& plan);
  void MakeGroups(const RequestSource& source);
  void NumberInstances();
  const std::vector<InstanceFacts>& PlanOf(std::size_t shard) const;
  std::size_t RowOf(const Shard& shard, std::int64_t instance) const;  // in the record
  void Watch(std::size_t shard, Running& running);
  void MergeRecords();
  std::uint64_t PlansHash() const;
  void State(Archive& a);
  void GoOn();
  std::int64_t PieceOr(std::int64_t rows) const {
    return options_.checkpoints != nullptr && options_.checkpoints->piece > 0 ? options_.checkpoints->piece : rows;
  }
  // Reads again what the group's shards have been given before the run was killed. False when that was all.
  bool CatchUp(RequestSource& source, const Group& group, std::int64_t limit, std::vector<std::vector<RequestSpec>>& rows,
               WorkloadSeen& seen);
  std::unique_ptr<Running> Begin(std::size_t shard);
  void Feed(Running& running, std::span<const RequestSpec> rows);
  void End(std::size_t shard, ShardsResult& into);
  // Reads up to `limit` requests into rows[k], of the group's shard k. False at the end, or beyond the horizon.
  bool Read(RequestSource& source, const Group& group, std::int64_t limit, std::vector<std::vector<RequestSpec>>& rows,
            WorkloadSeen& seen);
  void Seen(const WorkloadSeen& seen, ShardsResult& into);
  void RunAlone(Group& group, std::unique_ptr<RequestSource> source, ShardsResult& into);
  void RunTogether(Group& group, std::unique_ptr<RequestSource> source, Team& team, ShardsResult& into);
  void RunHere(std::unique_ptr<RequestSource> source);
  // Groups as tasks of several processes. False in all but the first.
  bool RunShared(RequestSource& source);
  ShardsResult NoResult(const Group& group) const;  // with room for what the group's shards add
  void PartState(Archive& a, const Group& group, ShardsResult& part);

  const Scenario& s_;
  const std::vector<PoolPlan>& plans_;
  const WorkloadFacts& facts_;
  const RunOptions& options_;
  std::vector<std::unique_ptr<PreparedPool>> pools_;
  std::vector<Shard> shards_;
  std::vector<std::unique_ptr<Running>> begun_;  // by shard; whole pools early, to find out whether they can be placed
  std::vector<Route> routes_;                    // by the workload's models
  std::vector<Group> groups_;
  std::unique_ptr<RowSpool> spool_;
  std::unique_ptr<RestPoint> rest_;  // where checkpoints are kept
  std::size_t rows_kept_ = 1 << 18;  // bytes of requests.csv that a shard keeps
  std::atomic<std::int64_t> fed_{0};
  std::vector<std::uint64_t> fingerprints_;                      // by shard
  std::shared_ptr<RunRecord> record_;                            // its rows are there from the start
  std::vector<std::pair<std::size_t, std::int64_t>> pool_rows_;  // of it, the first row and the first instance of each pool
  std::int64_t instances_per_row_ = 1;
  std::vector<std::unique_ptr<Record>> records_;  // by shard
  std::mutex mutex_;                              // guards result_
  ShardsResult result_;
};

// What a policy may do with a pool's plan is checked by the engine; here only what concerns the pool as a whole.
void Run::PreparePool(std::size_t p) {
  const PoolPlan& plan = plans_[p];
  pools_.push_back(std::make_unique<PreparedPool>(s_, plan.config, plan.models, facts_));
  PreparedPool& pool = *pools_.back();
  pool.setup.models.clear();
  pool.setup.check = options_.check;
  PoolTotals& totals = result_.pools[p];
  totals.gpu = pool.setup.gpu;
  for (const ModelFacts& m : pool.models) totals.models.push_back({m.name, m.llm, plan.config.name, {}});

  const PolicyEntry& policy = *Registry<PolicyEntry>::Get().Find(plan.config.policy.name);
  if (policy.owns_fleet) pool.setup.fleet.gpus = 0;
  if (policy.separable) {
    PoolParts parts(s_, plan.config.policy, static_cast<std::uint64_t>(s_.seed));
    CutByModel(p, parts.placement->Place(pool.setup.fleet, pool.models, *pool.prices));
    return;
  }
  Shard shard;
  shard.pool = p;
  for (std::size_t i = 0; i < plan.models.size(); ++i) {
    shard.models.push_back(static_cast<std::int32_t>(i));
    Route& route = routes_[static_cast<std::size_t>(plan.models[i])];
    route.first = shards_.size();
    route.model = static_cast<ModelId>(i);
  }
  shards_.push_back(std::move(shard));
}

void Run::CutByModel(std::size_t p, const std::vector<InstanceFacts>& plan) {
  const PoolPlan& pool = plans_[p];
  PoolTotals& totals = result_.pools[p];
  NodePacking packing(pool.config.fleet.gpus_per_node);
  std::vector<std::vector<const InstanceFacts*>> by_model(pool.models.size());
  std::vector<NodePacking::Place> places;
  for (const InstanceFacts& f : plan) {
    places.push_back(packing.Take(f.shape.gpus()));
    by_model[static_cast<std::size_t>(f.models.front())].push_back(&f);
  }
  totals.stranded_gpus = packing.Stranded();
  for (std::size_t m = 0; m < by_model.size(); ++m) {
    std::int64_t gpus = 0;
    std::array<std::int64_t, 3> roles{};
    for (const InstanceFacts* f : by_model[m]) {
      gpus += f->shape.gpus();
      ++roles[static_cast<std::size_t>(f->role)];
    }
    // Every cell has an instance of each role that the model has.
    std::int64_t cells =
        pool.config.fleet.cell_gpus ? (gpus + *pool.config.fleet.cell_gpus - 1) / *pool.config.fleet.cell_gpus : 1;
    for (const std::int64_t n : roles) cells = n > 0 ? std::min(cells, n) : cells;
    Route& route = routes_[static_cast<std::size_t>(pool.models[m])];
    route.first = shards_.size();
    route.cells = static_cast<std::uint64_t>(cells);
    route.instances = static_cast<std::uint64_t>(roles[static_cast<std::size_t>(Role::kBoth)] +
                                                 roles[static_cast<std::size_t>(Role::kPrefill)]);
    route.key = Hash64(totals.models[m].name, static_cast<std::uint64_t>(s_.seed));
    route.model = 0;
    for (std::int64_t c = 0; c < cells; ++c) {
      Shard shard;
      shard.pool = p;
      shard.models = {static_cast<std::int32_t>(m)};
      shard.part = true;
      shard.cell = c;
      shard.cells = cells;
      shards_.push_back(std::move(shard));
    }
    std::array<std::int64_t, 3> dealt{};
    for (const InstanceFacts* f : by_model[m]) {
      const std::int64_t n = dealt[static_cast<std::size_t>(f->role)]++;
      InstanceFacts mine = *f;
      mine.models = {0};
      for (ModelId& r : mine.resident) r = 0;
      Shard& shard = shards_[route.first + static_cast<std::size_t>(n % cells)];
      shard.plan.push_back(std::move(mine));
      shard.places.push_back(places[static_cast<std::size_t>(f - plan.data())]);
    }
  }
}

void Run::MakeGroups(const RequestSource& source) {
  const auto add = [this](std::vector<std::int32_t> models, std::size_t first, std::size_t count) {
    Group group{std::move(models), first, count, 0};
    for (const std::int32_t m : group.models) group.expected += static_cast<double>(facts_.forecast[m].requests);
    groups_.push_back(std::move(group));
  };
  std::size_t first = 0;
  while (first < shards_.size()) {
    std::size_t end = first + 1;
    while (end < shards_.size() && shards_[end].cell > 0) ++end;
    std::vector<std::int32_t> models;
    for (const std::int32_t m : shards_[first].models) models.push_back(plans_[shards_[first].pool].models[m]);
    add(std::move(models), first, end - first);
    first = end;
  }
  if (groups_.size() == 1 || source.Split(groups_.front().models) != nullptr) return;
  groups_.clear();
  std::vector<std::int32_t> all(routes_.size());
  std::iota(all.begin(), all.end(), 0);
  add(std::move(all), 0, shards_.size());
}

// When all pools are planned.
void Run::NumberInstances() {
  std::int64_t next = 0;
  std::vector<std::int64_t> of_pool(plans_.size(), 0);
  for (std::size_t n = 0; n < shards_.size(); ++n) {
    Shard& shard = shards_[n];
    shard.first_instance = next;
    shard.instances = static_cast<std::int64_t>(PlanOf(n).size());
    next += shard.instances;
    of_pool[shard.pool] += shard.instances;
  }
  if (options_.timeline != nullptr) options_.timeline->Expect(shards_.size(), next);
  if (!options_.record) return;
  instances_per_row_ = InstancesPerRow(of_pool);
  record_ = std::make_shared<RunRecord>();
  std::int64_t first = 0;
  std::size_t models = 0;
  for (std::size_t p = 0; p < plans_.size(); ++p) {
    pool_rows_.push_back({record_->rows.size(), first});
    for (std::int64_t i = 0; i < of_pool[p]; i += instances_per_row_)
      record_->rows.push_back({plans_[p].config.name, first + i, std::min(instances_per_row_, of_pool[p] - i), 0});
    first += of_pool[p];
    models += plans_[p].models.size();
  }
  for (std::size_t n = 0; n < shards_.size(); ++n) {
    std::int64_t i = shards_[n].first_instance;
    for (const InstanceFacts& f : PlanOf(n)) record_->rows[RowOf(shards_[n], i++)].gpus += f.shape.gpus();
  }
  record_->fleet = WindowRows<FleetCell>(record_->rows.size(), kFleetWindows);
  record_->models = WindowRows<ModelWindow>(models, kModelWindows);
  records_.resize(shards_.size());
}

const std::vector<InstanceFacts>& Run::PlanOf(std::size_t number) const {
  return shards_[number].part ? shards_[number].plan : begun_[number]->engine->plan();
}

std::size_t Run::RowOf(const Shard& shard, std::int64_t instance) const {
  const auto& [row, first] = pool_rows_[shard.pool];
  return row + static_cast<std::size_t>((instance - first) / instances_per_row_);
}

// Who looks on at a shard. Its rows of the record are those that its instances are in: others may share the first and the last.
void Run::Watch(std::size_t number, Running& running) {
  const Shard& shard = shards_[number];
  if (options_.timeline != nullptr) {
    Timeline::Process process;
    process.name = plans_[shard.pool].config.name;
    for (const ModelFacts& m : running.models) process.models.push_back(m.name);
    if (shard.part) process.name += ": " + process.models.front();
    if (shard.cells > 1) process.name += fmt::format(", cell {}", shard.cell);
    process.first_instance = shard.first_instance;
    process.instances = running.engine->plan();
    running.spans = options_.timeline->Watch(number, std::move(process));
    running.engine->set_span_observer(running.spans.get());
  }
  if (!options_.record) return;
  const std::size_t first = RowOf(shard, shard.first_instance);
  std::vector<std::int32_t> rows;
  for (std::int64_t i = 0; i < shard.instances; ++i)
    rows.push_back(static_cast<std::int32_t>(RowOf(shard, shard.first_instance + i) - first));
  const auto count = static_cast<std::size_t>(rows.back()) + 1;
  running.engine->metrics().Keep(std::make_unique<Record>(shard.models.size(), std::move(rows), count));
}

void Run::MergeRecords() {
  std::vector<std::int32_t> before(plans_.size(), 0);  // models of the pools before
  for (std::size_t p = 1; p < plans_.size(); ++p)
    before[p] = before[p - 1] + static_cast<std::int32_t>(plans_[p - 1].models.size());
  for (std::size_t n = 0; n < shards_.size(); ++n) {
    std::vector<std::int32_t> models = shards_[n].models;
    for (std::int32_t& m : models) m += before[shards_[n].pool];
    record_->Merge(*records_[n], models, RowOf(shards_[n], shards_[n].first_instance));
    records_[n] = nullptr;
  }
  result_.record = record_;
}

std::unique_ptr<Run::Running> Run::Begin(std::size_t number) {
  const Shard& shard = shards_[number];
  const PoolConfig& config = plans_[shard.pool].config;
  const PreparedPool& pool = *pools_[shard.pool];
  auto running = std::make_unique<Running>();
  PoolSetup setup = pool.setup;  // but for its models
  std::vector<ModelOverrides> overrides;
  for (const std::int32_t m : shard.models) {
    setup.models.push_back(pool.models[m]);
    overrides.push_back(pool.overrides[m]);
    running->names.push_back(CsvCell(pool.models[m].name));
  }
  std::uint64_t seed = static_cast<std::uint64_t>(s_.seed);
  if (shard.part) {
    std::int64_t gpus = 0;
    for (const InstanceFacts& f : shard.plan) gpus += f.shape.gpus();
    // Its share of its nodes' host memory; the whole pool has that of whole nodes.
    setup.host_kv_bytes = static_cast<std::int64_t>(config.fleet.host_kv_gb * 1e9 * static_cast<double>(gpus) /
                                                    static_cast<double>(config.fleet.gpus_per_node));
    seed = HashAt(Hash64(setup.models.front().name, seed), static_cast<std::uint64_t>(shard.cell));
    // A node's failure takes down what all models have there.
    if (setup.failures.Any()) setup.places = shard.places;
  }
  running->models = setup.models;
  running->prices = std::make_unique<Prices>(*pool.tables, running->models, std::move(overrides), setup.fleet.usable_bytes,
                                             setup.host_load, setup.engine_init);
  running->policy = std::make_unique<PoolParts>(s_, config.policy, seed);
  PoolParts& parts = *running->policy;
  Placement* placement = parts.placement;
  if (shard.part) {
    parts.placement->Adopt(shard.plan);
    running->part = std::make_unique<PartOfPlan>(shard.plan);
    placement = running->part.get();
  }
  const std::int64_t given = setup.fleet.gpus;
  running->engine = std::make_unique<Engine>(std::move(setup), *running->prices, *placement, *parts.router, *parts.scheduler);
  Engine& engine = *running->engine;
  parts.ServeOracles(engine);
  std::int64_t owned = 0;
  for (const InstanceFacts& f : engine.plan()) owned += f.shape.gpus();
  if (given > 0 && owned > given) {
    throw InfeasibleError(
        fmt::format("pool \"{}\": policy {} planned {} GPUs of {}", config.name, config.policy.name, owned, given));
  }
  if (options_.request_rows) {
    engine.set_request_sink([this, number, cell = shard.cell, pool_cell = CsvCell(config.name), r = running.get()](
                                const Request& request, const Targets& targets) {
      r->rows += RequestRow(request, pool_cell, cell, r->names[request.model], targets);
      if (r->rows.size() < rows_kept_) return;
      if (spool_ != nullptr) {
        spool_->Append(number, r->rows);
      } else {
        options_.request_rows(r->rows);
        r->rows.clear();
      }
    });
  }
  engine.set_token_observer(options_.observer);
  if (shard.part) Watch(number, *running);
  return running;
}

void Run::Feed(Running& running, std::span<const RequestSpec> rows) {
  running.engine->Feed(rows);
  const std::int64_t fed = fed_.fetch_add(static_cast<std::int64_t>(rows.size()), std::memory_order_relaxed);
  if (options_.progress) options_.progress(running.engine->simulated(), fed + static_cast<std::int64_t>(rows.size()));
}

void Run::End(std::size_t number, ShardsResult& into) {
  const std::unique_ptr<Running> running = std::move(begun_[number]);
  const Shard& shard = shards_[number];
  Engine& engine = *running->engine;
  const EngineResult end = engine.Finish();
  fingerprints_[number] = end.fingerprint;
  if (!running->rows.empty()) {
    if (spool_ != nullptr) {
      spool_->Append(number, running->rows);
    } else {
      options_.request_rows(running->rows);
    }
  }
  if (options_.record) records_[number] = engine.metrics().TakeRecord();
  const Metrics& metrics = engine.metrics();
  const std::lock_guard<std::mutex> lock(mutex_);
  PoolTotals& totals = into.pools[shard.pool];
  for (std::size_t m = 0; m < shard.models.size(); ++m) totals.models[shard.models[m]].metrics.Merge(metrics.models()[m]);
  PoolTotals mine;  // but for the models
  mine.gpus = end.gpus;
  mine.stranded_gpus = shard.part ? 0 : end.stranded_gpus;
  mine.instances = static_cast<std::int64_t>(engine.plan().size());
  mine.events = end.events;
  mine.requests = end.requests;
  mine.end = end.end;
  mine.windows = metrics.windows();
  for (Window& w : mine.windows) w.active_model_time /= shard.cells;
  mine.activity = metrics.activity;
  mine.switching = metrics.switching;
  mine.kv_held = metrics.kv_held;
  mine.failures = metrics.failures;
  mine.weight_bytes = metrics.weight_bytes_moved;
  mine.kv_bytes = metrics.kv_bytes_moved;
  mine.active_model_time = metrics.active_model_time / shard.cells;
  totals.Merge(mine);
}

bool Run::Read(RequestSource& source, const Group& group, std::int64_t limit, std::vector<std::vector<RequestSpec>>& rows,
               WorkloadSeen& seen) {
  for (auto& of_shard : rows) of_shard.clear();
  const TimePs horizon = pools_.front()->setup.horizon;
  RequestSpec spec;
  for (std::int64_t n = 0; n < limit; ++n) {
    if (!source.Next(spec)) return false;
    Route& route = routes_[static_cast<std::size_t>(spec.model)];
    if (spec.arrival <= horizon) seen.Add(spec, route.name_hash);
    std::size_t shard = route.first - group.first;
    if (route.cells > 1) {
      const std::uint64_t draw = HashAt(route.key, route.dealt++);
      shard += static_cast<std::size_t>((static_cast<unsigned __int128>(draw) * route.instances >> 64) % route.cells);
    }
    spec.model = route.model;
    rows[shard].push_back(spec);
    if (spec.arrival > horizon) return false;
  }
  return true;
}

void Run::Seen(const WorkloadSeen& seen, ShardsResult& into) {
  const std::lock_guard<std::mutex> lock(mutex_);
  into.seen.Merge(seen);
}

// Of what was known of the workload before the run, and of what was placed for it.
std::uint64_t Run::PlansHash() const {
  std::uint64_t hash = HashAt(facts_.seen.hash, static_cast<std::uint64_t>(facts_.seen.requests));
  for (std::size_t n = 0; n < shards_.size(); ++n) {
    for (const InstanceFacts& f : PlanOf(n)) {
      const std::string text = fmt::format("{} {} {} {} {} {}", f.shape.tp, f.shape.pp, f.shape.ep, static_cast<int>(f.role),
                                           fmt::join(f.models, ","), fmt::join(f.resident, ","));
      hash = Hash64(text, hash);
    }
  }
  return hash;
}

void Run::State(Archive& a) {
  std::int64_t fed = fed_;
  std::size_t shards = shards_.size(), groups = groups_.size();
  std::uint64_t plans = PlansHash();
  a(fed, shards, groups, plans);
  if (shards != shards_.size() || groups != groups_.size() || plans != PlansHash())
    throw InputError("the workload, or where models are placed for it, is not what it was when the checkpoint was made");
  fed_ = fed;
  a(groups_, fingerprints_, result_.seen.requests, result_.seen.last_arrival, result_.seen.hash);
  for (PoolTotals& totals : result_.pools) a(totals);
  if (spool_ != nullptr) a(*spool_);
  for (std::size_t n = 0; n < shards_.size(); ++n) {
    bool runs = begun_[n] != nullptr, recorded = options_.record && records_[n] != nullptr;
    a(runs, recorded);
    if (a.reads() && recorded) records_[n] = std::make_unique<Record>(0, std::vector<std::int32_t>{}, 0);
    if (recorded) a(*records_[n]);
    if (a.reads() && !runs) begun_[n] = nullptr;
    if (!runs) continue;
    if (begun_[n] == nullptr) begun_[n] = Begin(n);
    a(*begun_[n]->engine, begun_[n]->rows);
    if (!begun_[n]->policy->State(a)) {
      throw InputError(
          fmt::format("policy {} does not say what its state is (Policy::State): a run of it cannot be kept in checkpoints",
                      plans_[shards_[n].pool].config.policy.name));
    }
  }
}

void Run::GoOn() {
  if (options_.checkpoints->from.empty()) return;
  Archive a(options_.checkpoints->from);
  State(a);
  if (!a.at_end()) throw InputError("the checkpoint is of another run");
}

bool Run::CatchUp(RequestSource& source, const Group& group, std::int64_t limit, std::vector<std::vector<RequestSpec>>& rows,
                  WorkloadSeen& seen) {
  bool more = true;
  for (std::int64_t n = 0; n < group.reads; ++n) more = Read(source, group, limit, rows, seen);
  if (group.reads > 0 && seen.hash != group.hash)
    throw InputError("the workload is not the one that the checkpoint was made with");
  return more;
}

void Run::RunAlone(Group& group, std::unique_ptr<RequestSource> source, ShardsResult& into) {
  std::unique_ptr<Running>& running = begun_[group.first];
  if (running == nullptr) running = Begin(group.first);
  const std::int64_t limit = PieceOr(options_.hopeless ? kRowsBetweenDoubts : kRowsAtOnce);
  std::vector<std::vector<RequestSpec>> rows(1);
  WorkloadSeen seen;
  bool more = CatchUp(*source, group, limit, rows, seen);
  while (more) {
    more = Read(*source, group, limit, rows, seen);
    Feed(*running, rows.front());
    ++group.reads;
    group.hash = seen.hash;
    if (more && groups_.size() == 1 && options_.hopeless && options_.hopeless(running->engine->metrics()))
      throw AbandonedRun{fed_};
    if (rest_ != nullptr) rest_->Rest();
  }
  End(group.first, into);
  Seen(seen, into);
  group.done = true;
}

// While the shards work on one window, the next is read.
void Run::RunTogether(Group& group, std::unique_ptr<RequestSource> source, Team& team, ShardsResult& into) {
  const std::int64_t window =
      PieceOr(std::clamp(static_cast<std::int64_t>(group.count) * kWindowRowsPerShard, kLeastWindow, kMostWindow));
  std::vector<std::vector<RequestSpec>> rows(group.count), next(group.count);
  WorkloadSeen seen;
  bool more = CatchUp(*source, group, window, next, seen);
  const auto read = [&] { more = Read(*source, group, window, next, seen); };
  const auto end = [&](std::size_t task, int) { End(group.first + task, into); };
  if (more) {
    read();
    for (bool last = false; !last;) {
      last = !more;
      rows.swap(next);
      const std::uint64_t hash = seen.hash;
      const std::size_t readers = last ? 0 : 1;
      team.Run(readers + group.count, [&](std::size_t task, int) {
        if (task < readers) return read();
        const std::size_t k = task - readers;
        std::unique_ptr<Running>& running = begun_[group.first + k];
        if (running == nullptr) running = Begin(group.first + k);
        if (!rows[k].empty()) Feed(*running, rows[k]);
      });
      ++group.reads;
      group.hash = hash;
      if (rest_ != nullptr) rest_->Rest();
    }
  }
  team.Run(group.count, end);
  Seen(seen, into);
  group.done = true;
}

ShardsResult Run::NoResult(const Group& group) const {
  ShardsResult part;
  part.pools.resize(result_.pools.size());
  for (std::size_t k = 0; k < group.count; ++k) {
    const std::size_t p = shards_[group.first + k].pool;
    part.pools[p].models.resize(result_.pools[p].models.size());
  }
  return part;
}

void Run::PartState(Archive& a, const Group& group, ShardsResult& part) {
  for (PoolTotals& totals : part.pools) a(totals);
  a(part.seen.requests, part.seen.last_arrival, part.seen.hash);
  for (std::size_t n = group.first; n < group.first + group.count; ++n) {
    a(fingerprints_[n]);
    if (!options_.record) continue;
    if (a.reads()) records_[n] = std::make_unique<Record>(0, std::vector<std::int32_t>{}, 0);
    a(*records_[n]);
  }
}

bool Run::RunShared(RequestSource& source) {
  std::vector<Group*> tasks;
  for (Group& group : groups_) tasks.push_back(&group);
  std::stable_sort(tasks.begin(), tasks.end(), [](const Group* a, const Group* b) { return a->expected > b->expected; });
  const auto work = [&](std::size_t task) {
    Group& group = *tasks[task];
    ShardsResult part = NoResult(group);
    // A workload that cannot be split is one task, and read from the start.
    auto mine =
        groups_.size() == 1 ? (options_.requests ? options_.requests() : OpenScenarioWorkload(s_)) : source.Split(group.models);
    if (group.count == 1) {
      RunAlone(group, std::move(mine), part);
    } else {
      Team team(groups_.size() == 1 ? options_.threads : 1);
      RunTogether(group, std::move(mine), team, part);
    }
    Archive a;
    PartState(a, group, part);
    return a.written();
  };
  const auto take = [&](std::size_t task, const std::string& text) {
    const Group& group = *tasks[task];
    ShardsResult part = NoResult(group);
    Archive a(text);
    PartState(a, group, part);
    for (std::size_t p = 0; p < part.pools.size(); ++p) result_.pools[p].Merge(part.pools[p]);
    result_.seen.Merge(part.seen);
    for (std::size_t n = group.first; n < group.first + group.count; ++n) begun_[n] = nullptr;
  };
  return options_.share(tasks.size(), work, take);
}

void Run::RunHere(std::unique_ptr<RequestSource> source) {
  Team team(options_.threads);
  const auto of = [&](const Group& group) { return groups_.size() == 1 ? std::move(source) : source->Split(group.models); };
  std::vector<Group*> alone;
  for (Group& group : groups_) {
    if (group.done) continue;
    if (group.count == 1) {
      alone.push_back(&group);
    } else {
      const Working working(rest_.get());
      RunTogether(group, of(group), team, result_);
    }
  }
  // The largest first, so that none is left over at the end.
  std::stable_sort(alone.begin(), alone.end(), [](const Group* a, const Group* b) { return a->expected > b->expected; });
  team.Run(alone.size(), [&](std::size_t task, int) {
    const Working working(rest_.get());
    RunAlone(*alone[task], of(*alone[task]), result_);
  });
}

ShardsResult Run::All() {
  result_.pools.resize(plans_.size());
  routes_.resize(facts_.names.models().size());
  for (std::size_t m = 0; m < routes_.size(); ++m) routes_[m].name_hash = Hash64(facts_.names.models()[m].name);
  for (std::size_t p = 0; p < plans_.size(); ++p) PreparePool(p);
  fingerprints_.resize(shards_.size());
  begun_.resize(shards_.size());
  const Checkpoints* checkpoints = options_.checkpoints;
  if (options_.request_rows && checkpoints != nullptr) {
    spool_ = std::make_unique<RowSpool>(shards_.size(), checkpoints->rows, !checkpoints->from.empty());
  } else if (options_.request_rows && shards_.size() > 1) {
    spool_ = std::make_unique<RowSpool>(shards_.size());
  }
  rows_kept_ = PieceOr(0) > 0 ? 1 << 12 : std::clamp<std::size_t>((1 << 26) / shards_.size(), 1 << 12, 1 << 18);

  for (std::size_t n = 0; n < shards_.size(); ++n) {
    if (!shards_[n].part) begun_[n] = Begin(n);
  }
  NumberInstances();
  for (std::size_t n = 0; n < shards_.size(); ++n) {
    if (begun_[n] != nullptr) Watch(n, *begun_[n]);
  }

  std::unique_ptr<RequestSource> source = options_.requests ? options_.requests() : OpenScenarioWorkload(s_);
  MakeGroups(*source);
  SourceCounts counts = source->counts();  // of a file that is read in parts: all of it
  if (checkpoints != nullptr) {
    GoOn();
    rest_ = std::make_unique<RestPoint>(checkpoints->every_s, [this] {
      Archive a;
      State(a);
      options_.checkpoints->write(a.written());
    });
  }
  if (options_.share) {
    if (!RunShared(*source)) {
      result_.elsewhere = true;
      return std::move(result_);
    }
  } else {
    RunHere(std::move(source));
  }

  result_.seen.counts = facts_.seen.counts;
  if (!facts_.surveyed) {
    // A generator reads nothing; of a file only what the horizon leaves was looked at.
    counts.rows_read = result_.seen.requests + counts.rows_failed + counts.rows_skipped;
    result_.seen.counts = counts;
  }
  for (const std::uint64_t f : fingerprints_) {
    result_.fingerprint = fingerprints_.size() == 1 ? f : (std::rotl(result_.fingerprint, 17) ^ f) * 0x9e3779b97f4a7c15u;
  }
  if (spool_ != nullptr) spool_->EmitTo(options_.request_rows);
  if (options_.record) MergeRecords();
  return std::move(result_);
}

}  // namespace

void PoolTotals::Merge(const PoolTotals& other) {
  gpus += other.gpus;
  stranded_gpus += other.stranded_gpus;
  instances += other.instances;
  events += other.events;
  requests += other.requests;
  end = std::max(end, other.end);
  for (std::size_t m = 0; m < other.models.size(); ++m) models[m].metrics.Merge(other.models[m].metrics);
  MergeWindows(other.windows, windows);
  for (int a = 0; a < kActivities; ++a) activity[a] += other.activity[a];
  switching.Merge(other.switching);
  failures.Merge(other.failures);
  kv_held.Merge(other.kv_held);
  weight_bytes += other.weight_bytes;
  kv_bytes += other.kv_bytes;
  active_model_time += other.active_model_time;
}

std::vector<PoolPlan> AssignModels(const Scenario& s, const WorkloadFacts& facts) {
  std::vector<PoolPlan> plans;
  for (const PoolConfig& pool : s.Pools()) plans.push_back({pool, {}});
  const auto chooses = [](const PoolConfig& pool) { return !pool.models.empty() || pool.max_rate; };
  for (std::size_t m = 0; m < facts.names.models().size(); ++m) {
    const std::string& name = facts.names.models()[m].name;
    const auto lets_in = [&](const PoolPlan& plan) {
      const PoolConfig& pool = plan.config;
      const bool named = pool.models.empty() || std::any_of(pool.models.begin(), pool.models.end(),
                                                            [&](const std::string& pattern) { return Matches(pattern, name); });
      return chooses(pool) && named && (!pool.max_rate || facts.forecast[m].mean_rate <= *pool.max_rate);
    };
    auto home = std::find_if(plans.begin(), plans.end(), lets_in);
    if (home == plans.end())
      home = std::find_if(plans.begin(), plans.end(), [&](const PoolPlan& plan) { return !chooses(plan.config); });
    if (home == plans.end())
      throw InputError(fmt::format("{}: /pools: no pool takes model \"{}\" of the workload", s.file, name));
    home->models.push_back(static_cast<std::int32_t>(m));
  }
  for (const PoolPlan& plan : plans) {
    if (plan.models.empty()) {
      throw InputError(fmt::format("{}: /pools: no model of the workload belongs to pool \"{}\"", s.file, plan.config.name));
    }
  }
  return plans;
}

ShardsResult RunShards(const Scenario& scenario, const std::vector<PoolPlan>& plans, const WorkloadFacts& facts,
                       const RunOptions& options) {
  return Run(scenario, plans, facts, options).All();
}

}  // namespace poolsim

#include "sim/cli/progress.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "sim/cli/table.h"

namespace poolsim {
namespace {

using Clock = std::chrono::steady_clock;

std::string Rate(const ProgressState& s) {
  return ShortCount(s.elapsed_s > 0 ? std::round(static_cast<double>(s.requests) / s.elapsed_s) : 0) + " requests/s";
}

std::string TimeLeft(const ProgressState& s) {
  if (s.fraction <= 0 || s.elapsed_s < 0.5) return "";
  if (s.fraction >= 1) return "draining";
  const double left = s.elapsed_s * (1 - s.fraction) / s.fraction;
  return (left < 100 ? fmt::format("{:.0f} s", std::ceil(left)) : Duration(left)) + " left";
}

std::size_t TerminalWidth() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace

std::string ProgressLine(const ProgressState& s) {
  if (s.simulated == 0 && s.requests == 0) return fmt::format("{}: {}", s.label, Duration(s.elapsed_s));
  const std::string left = TimeLeft(s);
  return fmt::format("{}: {:.0f} %, {} simulated, {}{}{}", s.label, std::floor(std::min(s.fraction, 1.0) * 100),
                     Duration(ToSeconds(s.simulated)), Rate(s), left.empty() ? "" : ", ", left);
}

std::string ProgressBar(const ProgressState& s, std::size_t width) {
  std::string text = fmt::format("{:>3.0f} %  {:>11} simulated  {:>16}", std::floor(std::min(s.fraction, 1.0) * 100),
                                 Duration(ToSeconds(s.simulated)), Rate(s));
  const std::string left = TimeLeft(s);
  if (!left.empty()) text += "  " + left;
  const std::size_t around = Width(s.label) + Width(text) + 6;  // "label  [bar]  text"
  std::string line = s.label + "  ";
  if (around + 5 <= width) {
    const std::size_t cells = std::min<std::size_t>(30, width - around);
    const auto full = static_cast<std::size_t>(std::clamp(s.fraction, 0.0, 1.0) * static_cast<double>(cells));
    line += "[" + std::string(full, '#') + std::string(cells - full, '.') + "]  ";
  }
  line += text;
  return line.substr(0, width);
}

Progress::Mode Progress::ModeFor(bool quiet) {
  if (quiet) return Mode::kOff;
  const char* terminal = std::getenv("TERM");
  const bool capable = terminal != nullptr && std::string_view(terminal) != "dumb";
  return isatty(STDERR_FILENO) == 1 && capable ? Mode::kBar : Mode::kLines;
}

Progress::Progress(Mode mode) : mode_(mode) {
  if (mode_ != Mode::kOff) thread_ = std::thread([this] { Run(); });
}

Progress::~Progress() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
  if (shown_ && mode_ == Mode::kBar) std::fputs("\r\033[K", stderr);
}

void Progress::Expect(std::size_t simulations, std::int64_t requests) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (std::size_t i = 0; i < simulations; ++i) slots_.push_back(std::make_unique<Slot>());
  expected_requests_ = std::max<std::int64_t>(requests, 1);
}

ProgressSink Progress::Sink(std::size_t i, const std::string& label) {
  if (mode_ == Mode::kOff) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!begun_) begin_ = Clock::now();
  begun_ = true;
  Slot* slot = slots_[i].get();
  slot->label = label;
  slot->running = true;
  return [slot](TimePs simulated, std::int64_t requests) {
    slot->simulated.store(simulated, std::memory_order_relaxed);
    slot->requests.store(requests, std::memory_order_relaxed);
  };
}

void Progress::Done(std::size_t i) {
  if (mode_ == Mode::kOff) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  slots_[i]->running = false;
  slots_[i]->done = true;
}

double Progress::FractionOf(const Slot& slot) const {
  if (slot.done) return 1;
  const auto requests = static_cast<double>(slot.requests.load(std::memory_order_relaxed));
  return std::min(1.0, requests / static_cast<double>(expected_requests_));
}

ProgressState Progress::State() {
  ProgressState state;
  state.elapsed_s = std::chrono::duration<double>(Clock::now() - begin_).count();
  if (!begun_) {
    state.label = "reading the workload";
    return state;
  }
  std::size_t done = 0;
  for (const auto& slot : slots_) {
    state.fraction += FractionOf(*slot) / static_cast<double>(slots_.size());
    state.requests += slot->requests.load(std::memory_order_relaxed);
    if (slot->done) ++done;
    if (!slot->running) continue;
    // Of those that run side by side the first one is named.
    if (state.label.empty()) {
      state.label = slot->label;
      state.simulated = slot->simulated.load(std::memory_order_relaxed);
    }
  }
  if (slots_.size() > 1) state.label = fmt::format("{}/{} {}", std::min(done + 1, slots_.size()), slots_.size(), state.label);
  return state;
}

void Progress::Show() {
  const ProgressState state = State();
  shown_ = true;
  if (mode_ == Mode::kBar) {
    const std::string text = begun_ ? ProgressBar(state, TerminalWidth() - 1) : ProgressLine(state);
    fmt::print(stderr, "\r{}\033[K", text);
  } else {
    fmt::print(stderr, "poolsim: {}\n", ProgressLine(state));
  }
  std::fflush(stderr);
}

void Progress::Run() {
  // A run that is over in no time needs no bar.
  const auto every = mode_ == Mode::kBar ? std::chrono::milliseconds(150) : std::chrono::milliseconds(10'000);
  std::unique_lock<std::mutex> lock(mutex_);
  while (!wake_.wait_for(lock, every, [this] { return stop_; })) Show();
}

StatusLine::~StatusLine() {
  if (on_) fmt::print(stderr, "\r\033[K");
}

void StatusLine::Say(const std::string& text) {
  if (!on_) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  fmt::print(stderr, "\r\033[K{}", text);
  std::fflush(stderr);
}

}  // namespace poolsim

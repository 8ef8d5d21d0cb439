#include "checkpoint.h"

#include <ATen/Context.h>
#include <fmt/format.h>
#include <kolo/agree.h>
#include <kolo/init.h>
#include <kolo/ops.h>
#include <torch/serialize/archive.h>
#include <torch/utils.h>

#include <algorithm>
#include <charconv>
#include <stdexcept>
#include <utility>
#include <vector>

#include "checksum.h"
#include "files.h"
#include "recipe.h"

namespace resnet_example {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "checkpoint-";
constexpr std::string_view kSuffix = ".pt";
constexpr std::size_t kKept = 2;
constexpr const char* kWayOut = "Remove it to go on from the one before.";

/// The number in checkpoint-NNNN.pt, 0 for other names.
int epoch_of(const fs::path& path) {
  const std::string name = path.filename().string();
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return 0;
  int epoch = 0;
  const char* end = name.data() + name.size() - kSuffix.size();
  const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, epoch);
  return error == std::errc() && stop == end && epoch > 0 ? epoch : 0;
}

/// Newest first.
std::vector<fs::path> list_checkpoints(const fs::path& folder) {
  std::vector<fs::path> found;
  if (!fs::exists(folder)) return found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (epoch_of(entry.path()) > 0) found.push_back(entry.path());
  }
  std::ranges::sort(found, std::greater<>(), epoch_of);
  return found;
}

/// LibTorch's random number generators that this rank uses.
std::vector<at::Generator> generators(torch::Device device) {
  std::vector<at::Generator> found = {at::globalContext().defaultGenerator(torch::kCPU)};
  if (!device.is_cpu()) found.push_back(at::globalContext().defaultGenerator(device));
  return found;
}

torch::Tensor random_state(torch::Device device) {
  std::vector<torch::Tensor> states;
  for (const at::Generator& generator : generators(device)) {
    states.push_back(generator.get_state());
  }
  return torch::cat(states);
}

void set_random_state(const torch::Tensor& state, torch::Device device) {
  std::int64_t position = 0;
  for (at::Generator& generator : generators(device)) {
    const std::int64_t size = generator.get_state().numel();
    generator.set_state(state.slice(0, position, position + size).clone());
    position += size;
  }
}

torch::Tensor to_tensor(const std::string& text) {
  return torch::tensor(std::vector<std::uint8_t>(text.begin(), text.end()), torch::kUInt8);
}

torch::Tensor to_tensor(const LossScale& scale) {
  return torch::tensor({scale.factor(), static_cast<double>(scale.state().finite_steps)},
                       torch::kFloat64);
}

std::string to_string(const torch::Tensor& bytes) {
  return {static_cast<const char*>(bytes.data_ptr()), static_cast<std::size_t>(bytes.numel())};
}

template <class Saved>
void write_part(torch::serialize::OutputArchive& archive, const char* name, const Saved& saved) {
  torch::serialize::OutputArchive part;
  saved.save(part);
  archive.write(name, part);
}

template <class Loaded>
void read_part(torch::serialize::InputArchive& archive, const char* name, Loaded& loaded) {
  torch::serialize::InputArchive part;
  archive.read(name, part);
  loaded.load(part);
}

torch::Tensor read_tensor(torch::serialize::InputArchive& archive, const char* name) {
  torch::Tensor tensor;
  archive.read(name, tensor);
  return tensor.cpu();
}

}  // namespace

Checkpoints::Checkpoints(fs::path folder, std::string recipe, torch::Device device)
    : folder_(std::move(folder)), recipe_(std::move(recipe)), device_(device) {
  if (folder_.empty()) return;
  kolo::on_rank(0, [&] { require_writable_folder(folder_); });
}

void Checkpoints::require_empty_folder() const {
  if (folder_.empty()) return;
  kolo::on_rank(0, [&] {
    const std::vector<fs::path> found = list_checkpoints(folder_);
    if (found.empty()) return;
    throw std::runtime_error(
        fmt::format("--checkpoint-dir {} holds {} of an earlier run: add --resume to go on with "
                    "that run, or name another folder",
                    folder_.string(), found[0].filename().string()));
  });
}

int Checkpoints::load(torch::nn::Module& model, torch::optim::Optimizer& optimizer,
                      LossScale& loss_scale) const {
  torch::Tensor epochs_done = torch::zeros({1}, torch::kInt64);
  torch::Tensor scale = to_tensor(loss_scale);
  const torch::Tensor own_state = random_state(device_);
  torch::Tensor states = own_state.repeat({kolo::size(), 1});
  kolo::on_rank(0, [&] {
    const std::vector<fs::path> found = list_checkpoints(folder_);
    if (found.empty()) return;
    const std::string path = found[0].string();
    const std::string bytes = read_file(found[0]);
    const std::optional<std::string_view> contents = unsealed(bytes);
    if (!contents) {
      throw std::runtime_error(
          fmt::format("cannot go on from {}: it is damaged, its checksum is not that of "
                      "its contents. {}",
                      path, kWayOut));
    }
    try {
      torch::serialize::InputArchive archive;
      archive.load_from(contents->data(), contents->size(), device_);
      const std::string saved = to_string(read_tensor(archive, "recipe"));
      if (saved != recipe_) {
        throw std::runtime_error(fmt::format("it is of another run: {}",
                                             differing_lines(saved, "there", recipe_, "now")));
      }
      epochs_done = read_tensor(archive, "epochs_done");
      states = read_tensor(archive, "random_states");
      scale = read_tensor(archive, "loss_scale");
      read_part(archive, "model", model);
      read_part(archive, "optimizer", optimizer);
    } catch (const c10::Error& e) {
      throw std::runtime_error(
          fmt::format("cannot go on from {}: {}. {}", path, e.what_without_backtrace(), kWayOut));
    } catch (const std::exception& e) {
      throw std::runtime_error(fmt::format("cannot go on from {}: {}", path, e.what()));
    }
  });
  kolo::broadcast_(epochs_done, 0, {.name = "checkpoint.epochs_done"});
  kolo::broadcast_(states, 0, {.name = "checkpoint.random_states"});
  kolo::broadcast_(scale, 0, {.name = "checkpoint.loss_scale"});
  set_random_state(states[kolo::rank()], device_);
  loss_scale = LossScale({.factor = scale[0].item<double>(), .finite_steps = scale[1].item<int>()});
  return epochs_done.item<int>();
}

void Checkpoints::save(int epochs_done, const torch::nn::Module& model,
                       const torch::optim::Optimizer& optimizer,
                       const LossScale& loss_scale) const {
  if (folder_.empty()) return;
  const torch::Tensor states =
      kolo::allgather(random_state(device_).unsqueeze(0), {.name = "checkpoint.random_states"});
  kolo::on_rank(0, [&] {
    torch::serialize::OutputArchive archive;
    archive.write("recipe", to_tensor(recipe_));
    archive.write("epochs_done", torch::tensor({std::int64_t{epochs_done}}));
    archive.write("random_states", states);
    archive.write("loss_scale", to_tensor(loss_scale));
    write_part(archive, "model", model);
    write_part(archive, "optimizer", optimizer);
    std::string bytes;
    archive.save_to([&](const void* data, std::size_t size) {
      bytes.append(static_cast<const char*>(data), size);
      return size;
    });
    write_file_atomically(folder_ / fmt::format("{}{:04}{}", kPrefix, epochs_done, kSuffix),
                          sealed(std::move(bytes)));

    const std::vector<fs::path> all = list_checkpoints(folder_);
    for (std::size_t i = kKept; i < all.size(); ++i) fs::remove(all[i]);
  });
}

}  // namespace resnet_example

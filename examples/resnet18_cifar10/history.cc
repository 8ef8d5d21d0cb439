#include "history.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdlib>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>

#include "files.h"

namespace resnet_example {
namespace {

constexpr const char* kHeader =
    "epoch,ranks,lr,train_loss,train_accuracy,test_loss,test_accuracy,seconds,images_per_second,"
    "data_seconds,forward_seconds,backward_seconds,communication_seconds,optimizer_seconds";

/// The file's lines up to `last_epoch`. Later ones are of epochs that are about to be repeated.
std::string lines_up_to(const std::filesystem::path& path, int last_epoch) {
  std::istringstream old(read_file(path));
  std::string line;
  std::getline(old, line);
  if (line != kHeader) {
    throw std::runtime_error(
        fmt::format("{}: first line: expected '{}', found '{}'", path.string(), kHeader, line));
  }
  std::string kept = line + '\n';
  while (std::getline(old, line)) {
    if (std::atoi(line.c_str()) <= last_epoch) kept += line + '\n';
  }
  return kept;
}

}  // namespace

History::History(const std::filesystem::path& path, int resumed_epoch) : path_(path) {
  if (path_.empty()) return;
  const bool go_on = resumed_epoch > 0 && std::filesystem::exists(path_);
  write_file_atomically(path_,
                        go_on ? lines_up_to(path_, resumed_epoch) : std::string(kHeader) + '\n');
  file_.open(path_, std::ios::app);
}

void History::append(const EpochRecord& r) {
  if (path_.empty()) return;
  file_ << fmt::format("{},{},{},{},{},{},{},{:.6f},{:.3f},{:.6f},{:.6f},{:.6f},{:.6f},{:.6f}\n",
                       r.epoch, r.ranks, r.lr, r.train_loss, r.train_accuracy, r.test_loss,
                       r.test_accuracy, r.seconds, r.images_per_second, r.phases.data,
                       r.phases.forward, r.phases.backward, r.phases.communication,
                       r.phases.optimizer);
  file_.flush();
  if (!file_) {
    throw std::runtime_error(
        fmt::format("cannot write {}: {}", path_.string(), std::generic_category().message(errno)));
  }
}

}  // namespace resnet_example

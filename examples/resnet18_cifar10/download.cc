#include "download.h"

#include <curl/curl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <system_error>

#include "checksum.h"
#include "dataset.h"
#include "files.h"

namespace resnet_example {
namespace {

namespace fs = std::filesystem;

constexpr long kHttpRangeNotSatisfiable = 416;

std::uintmax_t size_or_zero(const fs::path& path) {
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  return error ? 0 : size;
}

/// A line that is redrawn on a terminal, and one line every tenth elsewhere.
struct DownloadProgress {
  curl_off_t resumed_at = 0;
  bool terminal = ::isatty(STDERR_FILENO) != 0;
  int shown_percent = -1;

  void show(curl_off_t total, curl_off_t now) {
    if (total <= 0) return;
    const int percent = static_cast<int>(100 * (resumed_at + now) / (resumed_at + total));
    const int step = terminal ? 1 : 10;
    if (percent / step == shown_percent / step && shown_percent >= 0) return;
    shown_percent = percent;
    const double mib = static_cast<double>(resumed_at + total) / (1 << 20);
    fmt::print(stderr, "{}downloading CIFAR-10: {:3} % of {:.1f} MiB{}", terminal ? "\r" : "",
               percent, mib, terminal && percent < 100 ? "" : "\n");
    std::fflush(stderr);
  }
};

int on_progress(void* progress, curl_off_t total, curl_off_t now, curl_off_t, curl_off_t) {
  static_cast<DownloadProgress*>(progress)->show(total, now);
  return 0;
}

/// Where the transfer's bytes go. No exception may pass through libcurl.
struct Target {
  OutputFile file;
  std::exception_ptr failure = nullptr;
};

std::size_t on_data(char* data, std::size_t size, std::size_t count, void* target) {
  try {
    static_cast<Target*>(target)->file.write({data, size * count});
    return size * count;
  } catch (...) {
    static_cast<Target*>(target)->failure = std::current_exception();
    return 0;
  }
}

struct Transfer {
  CURLcode code = CURLE_OK;
  long http_status = 0;
  std::string reason;

  /// What is left in the .part file does not go with what the server has.
  bool cannot_resume() const {
    return code == CURLE_RANGE_ERROR || code == CURLE_BAD_DOWNLOAD_RESUME ||
           http_status == kHttpRangeNotSatisfiable;
  }
};

Transfer transfer(const std::string& url, const fs::path& part) {
  Target target{.file = OutputFile(part, OutputFile::How::Continue)};
  const std::unique_ptr<CURL, void (*)(CURL*)> curl(curl_easy_init(), curl_easy_cleanup);
  if (!curl) throw std::runtime_error("libcurl cannot be initialised");

  std::array<char, CURL_ERROR_SIZE> reason{};
  DownloadProgress progress{.resumed_at = static_cast<curl_off_t>(size_or_zero(part))};
  curl_easy_setopt(curl.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(curl.get(), CURLOPT_RESUME_FROM_LARGE, progress.resumed_at);
  curl_easy_setopt(curl.get(), CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_FAILONERROR, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl.get(), CURLOPT_CONNECTTIMEOUT, 30L);
  curl_easy_setopt(curl.get(), CURLOPT_LOW_SPEED_LIMIT, 1L);  // bytes/s …
  curl_easy_setopt(curl.get(), CURLOPT_LOW_SPEED_TIME, 60L);  // … for so many seconds: give up
  curl_easy_setopt(curl.get(), CURLOPT_ERRORBUFFER, reason.data());
  curl_easy_setopt(curl.get(), CURLOPT_WRITEFUNCTION, &on_data);
  curl_easy_setopt(curl.get(), CURLOPT_WRITEDATA, &target);
  curl_easy_setopt(curl.get(), CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl.get(), CURLOPT_XFERINFOFUNCTION, &on_progress);
  curl_easy_setopt(curl.get(), CURLOPT_XFERINFODATA, &progress);

  Transfer result;
  result.code = curl_easy_perform(curl.get());
  if (target.failure != nullptr) std::rethrow_exception(target.failure);
  curl_easy_getinfo(curl.get(), CURLINFO_RESPONSE_CODE, &result.http_status);
  result.reason = reason[0] != '\0' ? reason.data() : curl_easy_strerror(result.code);
  return result;
}

std::runtime_error failure(const std::string& url, const std::string& reason,
                           const fs::path& path) {
  return std::runtime_error(fmt::format(
      "downloading {} failed: {}. Try again (an interrupted download goes on where it stopped), or "
      "fetch the file by other means and unpack it into {}, or leave out --download to train on "
      "Fashion-MNIST.",
      url, reason, path.parent_path().string()));
}

}  // namespace

RemoteArchive official_cifar10() {
  return {.url = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
          .sha256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"};
}

void download_file(const RemoteArchive& archive, const fs::path& path) {
  fs::path part = path;
  part += ".part";
  // Broken off between the last byte and the rename?
  bool complete = size_or_zero(part) > 0 && sha256_of_file(part) == archive.sha256;
  while (!complete) {
    const bool resumed = size_or_zero(part) > 0;
    const Transfer result = transfer(archive.url, part);
    std::string reason;
    if (result.code == CURLE_OK) {
      const std::string found = sha256_of_file(part);
      complete = found == archive.sha256;
      reason = fmt::format("SHA-256: expected {}, found {}", archive.sha256, found);
    } else {
      reason = result.reason;
    }
    const bool useless =
        size_or_zero(part) == 0 || result.cannot_resume() || (result.code == CURLE_OK && !complete);
    if (useless) fs::remove(part);
    // What was there before may be to blame: once more, from the start.
    const bool retry = useless && resumed;
    if (!complete && !retry) throw failure(archive.url, reason, path);
  }
  fs::rename(part, path);
}

void fetch_cifar10(const fs::path& folder, const RemoteArchive& archive) {
  if (has_cifar10(folder)) return;
  const fs::path target = folder / "cifar-10-batches-bin";
  const fs::path packed = folder / "cifar-10-binary.tar.gz";
  std::error_code error;
  fs::create_directories(target, error);
  if (error) {
    throw std::runtime_error(
        fmt::format("cannot create folder {}: {}", target.string(), error.message()));
  }
  download_file(archive, packed);
  unpack_files(packed, target);
  fs::remove(packed);
}

}  // namespace resnet_example

#include <archive.h>
#include <archive_entry.h>
#include <fmt/format.h>

#include <array>
#include <memory>
#include <stdexcept>

#include "download.h"
#include "files.h"

namespace resnet_example {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kChunk = 1 << 18;

[[noreturn]] void fail(const fs::path& path, archive* reader) {
  const char* reason = archive_error_string(reader);
  throw std::runtime_error(fmt::format("cannot unpack {}: {}", path.string(),
                                       reason != nullptr ? reason : "unknown reason"));
}

/// The contents of the entry that the reader stands at.
void write_entry(const fs::path& archive_path, archive* reader, const fs::path& path) {
  fs::path part = path;
  part += ".part";
  OutputFile file(part, OutputFile::How::New);
  std::array<char, kChunk> chunk;
  for (;;) {
    const la_ssize_t got = archive_read_data(reader, chunk.data(), chunk.size());
    if (got < 0) fail(archive_path, reader);
    if (got == 0) break;
    file.write({chunk.data(), static_cast<std::size_t>(got)});
  }
  fs::rename(part, path);
}

}  // namespace

void unpack_files(const fs::path& path, const fs::path& folder) {
  const std::unique_ptr<archive, int (*)(archive*)> reader(archive_read_new(), archive_read_free);
  if (!reader) throw std::runtime_error("libarchive cannot be initialised");
  archive_read_support_format_tar(reader.get());
  archive_read_support_filter_all(reader.get());
  if (archive_read_open_filename(reader.get(), path.c_str(), kChunk) != ARCHIVE_OK) {
    fail(path, reader.get());
  }
  for (;;) {
    archive_entry* entry = nullptr;
    const int status = archive_read_next_header(reader.get(), &entry);
    if (status == ARCHIVE_EOF) return;
    if (status != ARCHIVE_OK) fail(path, reader.get());
    if (archive_entry_filetype(entry) != AE_IFREG) continue;
    // The bare name: no entry can lead out of the folder.
    const char* name = archive_entry_pathname(entry);
    const fs::path file = fs::path(name != nullptr ? name : "").filename();
    if (!file.empty() && file != "." && file != "..") {
      write_entry(path, reader.get(), folder / file);
    }
  }
}

}  // namespace resnet_example

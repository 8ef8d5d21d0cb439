#include "download.h"

#include <archive.h>
#include <archive_entry.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "checksum.h"
#include "data_files.h"
#include "dataset.h"
#include "http_server.h"
#include "temp_folder.h"

namespace resnet_example {
namespace {

using testing::expect_error;
using testing::HttpServer;
using testing::read_text;
using testing::TempFolder;
using testing::write_text;

constexpr const char* kSha256OfAbc =
    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

class Download : public ::testing::Test {
 protected:
  Download() {
    ::setenv("no_proxy", "127.0.0.1", 1);
    for (std::size_t i = 0; i < 300'000; ++i) body_ += static_cast<char>(i * i % 251);
    write_text(folder_ / "reference", body_);
    sha256_ = sha256_of_file(folder_ / "reference");
  }

  const TempFolder folder_;
  const std::filesystem::path path_ = folder_ / "file.tar.gz";
  const std::filesystem::path part_ = folder_ / "file.tar.gz.part";
  std::string body_;
  std::string sha256_;
};

/// Names with their contents, as a compressed tar archive.
void write_archive(const std::filesystem::path& path,
                   const std::vector<std::pair<std::string, std::string>>& files) {
  const std::unique_ptr<archive, int (*)(archive*)> writer(archive_write_new(), archive_write_free);
  archive_write_set_format_pax_restricted(writer.get());
  archive_write_add_filter_gzip(writer.get());
  archive_write_set_filter_option(writer.get(), "gzip", "compression-level", "1");
  ASSERT_EQ(archive_write_open_filename(writer.get(), path.c_str()), ARCHIVE_OK);
  for (const auto& [name, contents] : files) {
    const std::unique_ptr<archive_entry, void (*)(archive_entry*)> entry(archive_entry_new(),
                                                                         archive_entry_free);
    archive_entry_set_pathname(entry.get(), name.c_str());
    archive_entry_set_size(entry.get(), static_cast<la_int64_t>(contents.size()));
    archive_entry_set_filetype(entry.get(), AE_IFREG);
    archive_entry_set_perm(entry.get(), 0644);
    ASSERT_EQ(archive_write_header(writer.get(), entry.get()), ARCHIVE_OK);
    archive_write_data(writer.get(), contents.data(), contents.size());
  }
  ASSERT_EQ(archive_write_close(writer.get()), ARCHIVE_OK);
}

TEST(Sha256, OfKnownText) {
  const TempFolder folder;
  write_text(folder / "abc", "abc");
  EXPECT_EQ(sha256_of_file(folder / "abc"), kSha256OfAbc);
  expect_error([&] { sha256_of_file(folder / "none"); }, (folder / "none").string());
}

TEST(OfficialArchive, IsWhereItHasAlwaysBeen) {
  EXPECT_EQ(official_cifar10().url, "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz");
  EXPECT_EQ(official_cifar10().sha256.size(), 64U);
}

TEST_F(Download, FetchesAFile) {
  const HttpServer server(body_);
  download_file({server.url(), sha256_}, path_);
  EXPECT_EQ(read_text(path_), body_);
  EXPECT_FALSE(std::filesystem::exists(part_));
}

TEST_F(Download, FetchesFromAFileUrl) {
  download_file({"file://" + (folder_ / "reference").string(), sha256_}, path_);
  EXPECT_EQ(read_text(path_), body_);
}

TEST_F(Download, GoesOnWhereItStopped) {
  const HttpServer server(body_, {.break_after = 100'000});
  expect_error([&] { download_file({server.url(), sha256_}, path_); }, server.url(), "goes on");
  ASSERT_EQ(std::filesystem::file_size(part_), 100'000U);
  download_file({server.url(), sha256_}, path_);
  EXPECT_EQ(read_text(path_), body_);
  EXPECT_EQ(server.requested_from(), (std::vector<std::size_t>{0, 100'000}));
}

TEST_F(Download, StartsAnewWhenTheServerKnowsNoRanges) {
  const HttpServer server(body_, {.ranges = false});
  write_text(part_, body_.substr(0, 1000));
  download_file({server.url(), sha256_}, path_);
  EXPECT_EQ(read_text(path_), body_);
}

TEST_F(Download, StartsAnewWhenThePartIsOfSomethingElse) {
  for (const std::size_t size : {1000U, 300'000U, 400'000U}) {
    const HttpServer server(body_);
    write_text(part_, std::string(size, 'x'));
    download_file({server.url(), sha256_}, path_);
    EXPECT_EQ(read_text(path_), body_);
    std::filesystem::remove(path_);
  }
}

TEST_F(Download, TakesAPartThatIsComplete) {
  write_text(part_, body_);
  download_file({"http://127.0.0.1:1/none", sha256_}, path_);
  EXPECT_EQ(read_text(path_), body_);
}

TEST_F(Download, RefusesAWrongChecksum) {
  const HttpServer server(body_);
  expect_error(
      [&] {
        download_file({server.url(), kSha256OfAbc}, path_);
      },
      server.url(), std::string("expected ") + kSha256OfAbc, "found " + sha256_);
  EXPECT_FALSE(std::filesystem::exists(path_));
  EXPECT_FALSE(std::filesystem::exists(part_));
}

TEST_F(Download, TellsWhyAndWhatToDo) {
  expect_error(
      [&] {
        download_file({"http://127.0.0.1:1/none", sha256_}, path_);
      },
      "http://127.0.0.1:1/none", "onnect", folder_.path().string(), "Fashion-MNIST");
  const HttpServer server(body_, {.status = 404});
  expect_error([&] { download_file({server.url(), sha256_}, path_); }, "404");
  EXPECT_FALSE(std::filesystem::exists(part_));
  expect_error(
      [&] {
        download_file({server.url(), sha256_}, folder_ / "no/file");
      },
      "cannot write", (folder_ / "no/file.part").string());
}

TEST_F(Download, UnpacksFilesWithoutTheirFolders) {
  write_archive(path_, {{"cifar-10-batches-bin/a.bin", body_}, {"../../../b.bin", "b"}});
  std::filesystem::create_directory(folder_ / "out");
  unpack_files(path_, folder_ / "out");
  EXPECT_EQ(read_text(folder_ / "out/a.bin"), body_);
  EXPECT_EQ(read_text(folder_ / "out/b.bin"), "b");
}

TEST_F(Download, FollowsNoLinksThatLieAtItsNames) {
  write_text(folder_ / "precious", "precious");
  std::filesystem::create_symlink("precious", part_);
  const HttpServer server(body_);
  expect_error([&] { download_file({server.url(), sha256_}, path_); }, part_.string());
  std::filesystem::remove(part_);
  ASSERT_EQ(::mkfifo(part_.c_str(), 0600), 0);
  expect_error([&] { download_file({server.url(), sha256_}, path_); }, part_.string());

  write_archive(path_, {{"a.bin", body_}});
  std::filesystem::create_directory(folder_ / "out");
  std::filesystem::create_symlink("../precious", folder_ / "out/a.bin.part");
  unpack_files(path_, folder_ / "out");
  EXPECT_EQ(read_text(folder_ / "out/a.bin"), body_);
  EXPECT_EQ(read_text(folder_ / "precious"), "precious");
}

TEST_F(Download, RefusesABrokenArchive) {
  write_archive(path_, {{"a.bin", body_}});
  const std::string whole = read_text(path_);
  write_text(path_, whole.substr(0, whole.size() / 2));
  std::filesystem::create_directory(folder_ / "out");
  expect_error([&] { unpack_files(path_, folder_ / "out"); }, "cannot unpack", path_.string());
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out/a.bin"));
}

TEST_F(Download, MakesADataSetOnce) {
  const TempFolder source;
  testing::write_cifar10(source.path());
  std::vector<std::pair<std::string, std::string>> files;
  for (const auto& entry : std::filesystem::directory_iterator(source.path())) {
    const std::string name = entry.path().filename().string();
    files.emplace_back("cifar-10-batches-bin/" + name, read_text(entry.path()));
  }
  write_archive(folder_ / "archive", files);
  const RemoteArchive archive{"file://" + (folder_ / "archive").string(),
                              sha256_of_file(folder_ / "archive")};

  fetch_cifar10(folder_ / "data", archive);
  EXPECT_TRUE(has_cifar10(folder_ / "data"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "data/cifar-10-binary.tar.gz"));
  fetch_cifar10(folder_ / "data", {"http://127.0.0.1:1/none", ""});  // nothing left to do
}

}  // namespace
}  // namespace resnet_example

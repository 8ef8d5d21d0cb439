#pragma once

/// Fetches and unpacks CIFAR-10.

#include <filesystem>
#include <string>

namespace resnet_example {

struct RemoteArchive {
  std::string url;
  std::string sha256;  ///< lower-case hexadecimal
};

/// The official binary version, 170,052,171 bytes.
RemoteArchive official_cifar10();

/// Makes `folder` hold CIFAR-10's files; does nothing when they are there. What an earlier download
/// left in ARCHIVE.part is continued. Shows its progress on stderr.
///
/// @throws std::runtime_error with the url, the reason, and what to do instead.
void fetch_cifar10(const std::filesystem::path& folder,
                   const RemoteArchive& archive = official_cifar10());

/// Downloads to PATH.part, continuing what is there, checks the checksum, and renames it to PATH.
void download_file(const RemoteArchive& archive, const std::filesystem::path& path);

/// Unpacks the files of a tar archive (compressed or not) into `folder`, without its folders. Each
/// file appears under its name when it is complete.
void unpack_files(const std::filesystem::path& archive, const std::filesystem::path& folder);

}  // namespace resnet_example

// How what ranks say reaches kolorun: as frames on the error output that mpirun forwards from each
// of them.
//
// mpirun forwards pieces of at most 4096 bytes as it reads them, those of different ranks in any
// order. Frames of one size that divides 4096, each written at once into a pipe, are never cut:
// whatever mpirun reads is whole frames. What is no frame comes from mpirun itself.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace kolo::launch {

inline constexpr std::size_t kFrameBytes = 512;
/// What a pipe takes, and mpirun reads, at once.
inline constexpr std::size_t kPieceBytes = 4096;
/// Text of which the frames fit into a piece, whatever is in it.
inline constexpr std::size_t kTextBytes = 1800;

enum class FrameKind : char {
  Started = 'S',  ///< "HOST": the rank's program has been started there
  Output = 'O',   ///< standard output
  Error = 'E',    ///< error output
  Ended = 'X',    ///< a wait status in decimal, after all output
};

struct Frame {
  FrameKind kind = FrameKind::Output;
  int rank = 0;
  std::string text;

  bool operator==(const Frame&) const = default;
};

/// One or more frames, each of kFrameBytes; none for an Output or Error without text.
std::string encode(FrameKind kind, int rank, std::string_view text);

/// Separates frames from other text in what mpirun writes.
class FrameReader {
 public:
  using Piece = std::variant<Frame, std::string>;

  std::vector<Piece> read(std::string_view bytes);

  /// What is left when nothing more comes.
  std::string rest();

 private:
  std::string pending_;
};

}  // namespace kolo::launch

#include "launch/frames.h"

#include <gtest/gtest.h>

namespace kolo::launch {
namespace {

using Pieces = std::vector<FrameReader::Piece>;

std::string every_byte() {
  std::string text;
  for (int c = 0; c < 256; ++c) text += static_cast<char>(c);
  return text;
}

/// What all pieces of rank 3 say together.
std::string said(const Pieces& pieces) {
  std::string text;
  for (const auto& piece : pieces) {
    const auto& frame = std::get<Frame>(piece);
    EXPECT_EQ(frame.rank, 3);
    EXPECT_EQ(frame.kind, FrameKind::Error);
    text += frame.text;
  }
  return text;
}

TEST(Frames, CarryEveryByte) {
  for (const auto& text : {every_byte(), std::string("x"), std::string(kTextBytes, '\n')}) {
    const auto frames = encode(FrameKind::Error, 3, text);
    EXPECT_EQ(frames.size() % kFrameBytes, 0U);
    EXPECT_EQ(said(FrameReader().read(frames)), text);
  }
  EXPECT_EQ(encode(FrameKind::Output, 0, ""), "");
}

TEST(Frames, FitIntoAPieceWhateverTheTextIs) {
  EXPECT_LE(encode(FrameKind::Output, 999'999, std::string(kTextBytes, '\0')).size(), kPieceBytes);
}

TEST(Frames, AreFoundBetweenOtherText) {
  const auto frame = encode(FrameKind::Ended, 12, "256");
  const Frame expected{FrameKind::Ended, 12, "256"};
  FrameReader reader;
  EXPECT_EQ(reader.read("mpirun: a\n" + frame + "\x01 b" + frame),
            (Pieces{"mpirun: a\n", expected, "\x01 b", expected}));
  EXPECT_EQ(reader.rest(), "");
}

TEST(Frames, MayComeInParts) {
  const auto frame = encode(FrameKind::Started, 1, "node1");
  FrameReader reader;
  for (std::size_t i = 0; i + 1 < frame.size(); ++i) {
    EXPECT_EQ(reader.read(frame.substr(i, 1)), Pieces{});
  }
  EXPECT_EQ(reader.read("\n"), (Pieces{Frame{FrameKind::Started, 1, "node1"}}));
  EXPECT_EQ(reader.read(frame.substr(0, 9)), Pieces{});
  EXPECT_EQ(reader.rest(), frame.substr(0, 9));
}

}  // namespace
}  // namespace kolo::launch

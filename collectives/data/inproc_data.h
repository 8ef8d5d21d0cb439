#pragma once

/// A data plane between threads of one process, as plain as can be: the oracle for the other
/// planes, and what a process that is alone uses.

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/doorbell.h"
#include "data/data_plane.h"

namespace kolo::core {

/// Where the ranks' planes meet. Thread-safe.
class InprocDataHub : public std::enable_shared_from_this<InprocDataHub> {
 public:
  static std::shared_ptr<InprocDataHub> create(int size);

  /// The plane of `rank`, to be asked for once per rank. Operations that others complete ring
  /// `own`, which must outlive the plane. The plane must outlive its operations.
  ///
  /// The member that starts an operation last carries it out for all. All members' operations fail
  /// when they do not describe the same collective, or when one is destroyed before it is Done. Who
  /// has destroyed one may start, and destroy, its number again, for those who have not come yet.
  std::unique_ptr<DataPlane> connect(int rank, Doorbell& own);

 private:
  friend class InprocDataPlane;
  friend class InprocOperation;

  /// Members of one collective find each other here.
  struct Meeting {
    std::vector<Collective> arrived;
    bool declined = false;
    bool done = false;
    Status failure;
  };
  using Key = std::pair<ChannelId, std::uint64_t>;

  explicit InprocDataHub(int size) : doorbells_(static_cast<std::size_t>(size)) {}

  std::shared_ptr<Meeting> join(const Collective& collective);
  void leave(const Collective& collective, const std::shared_ptr<Meeting>& meeting);
  void ring(const Meeting& meeting);

  std::mutex mutex_;
  std::map<Key, std::shared_ptr<Meeting>> meetings_;
  std::vector<Doorbell*> doorbells_;
};

}  // namespace kolo::core

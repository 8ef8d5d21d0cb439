#include "shm/host.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <span>
#include <utility>

#include "shm/arena_limits.h"
#include "shm/fd_passing.h"

namespace kolo::core::shm {
namespace {

// Descriptors have been sent when they are waited for. Not so what another process sends.
constexpr std::chrono::seconds kPatience{10};

// Descriptors that all ranks together have sent before they are received. Linux lets a user have no
// more under way than one process may have open (ulimit -n), which is often 1024.
constexpr int kUnderWay = 128;

// An arena begins with the doorbell, on a page of its own; then come the notices of each section,
// and then the rings.
constexpr std::size_t kDoorbellBytes = Heap::kPage;

// What an operation on private memory takes of the heap: a smaller one has no use.
constexpr std::size_t kLeastHeap = std::size_t{1} << 20;

std::size_t bytes_before_rings(std::size_t ranks) {
  return kDoorbellBytes + Heap::round_up(kSections * ranks * sizeof(Notice));
}

std::size_t reserved_bytes(int size) {
  const auto ranks = static_cast<std::size_t>(size);
  return Heap::round_up(bytes_before_rings(ranks) + kSections * ranks * sizeof(Ring));
}

std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string as_text(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Everybody's status; the first failure is everybody's.
Status agree(Bootstrap& bootstrap, const std::vector<int>& ranks, const Status& own) {
  const std::string text = own.ok() ? "" : own.message();
  const auto all = bootstrap.all_gather(as_bytes(text));
  if (!all.ok()) return all.status();
  for (std::size_t i = 0; i < all.value().size(); ++i) {
    if (all.value()[i].empty()) continue;
    return Status::error(fmt::format("rank {}: {}", ranks[i], as_text(all.value()[i])));
  }
  return {};
}

template <typename T>
Result<std::vector<T>> all_gather(Bootstrap& bootstrap, const T& own) {
  const auto all = bootstrap.all_gather(std::as_bytes(std::span(&own, 1)));
  if (!all.ok()) return all.status();
  std::vector<T> values(all.value().size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (all.value()[i].size() != sizeof(T)) {
      return Status::error("the ranks of this host run different versions of Kolo");
    }
    std::memcpy(&values[i], all.value()[i].data(), sizeof(T));
  }
  return values;
}

/// Of each arena: as much as every rank can map of it, or what is needed, if that is more. (Who can map less
/// than that makes no arena.)
struct Capacity {
  ArenaLimit own;
  std::size_t needed;
  std::size_t agreed;
};

Result<Capacity> agree_on_capacity(Bootstrap& bootstrap, const Host::Settings& settings) {
  Capacity capacity{.own = largest_arena(bootstrap.size()),
                    .needed = reserved_bytes(bootstrap.size()) + kLeastHeap +
                              static_cast<std::size_t>(bootstrap.size()) * Heap::kPage,
                    .agreed = 0};
  const std::size_t wanted = settings.capacity == 0 ? capacity.own.bytes : settings.capacity;
  const auto all = all_gather(bootstrap, std::min(wanted, capacity.own.bytes));
  if (!all.ok()) return all.status();
  capacity.agreed = std::max(capacity.needed, *std::ranges::min_element(all.value()));
  return capacity;
}

Result<std::shared_ptr<Arena>> create_arena(const Bootstrap& bootstrap,
                                            const Host::Settings& settings,
                                            const Capacity& capacity) {
  if (!settings.refusal.empty()) return Status::error(settings.refusal);
  if (capacity.own.bytes < capacity.needed) {
    return Status::error(fmt::format("{} bytes are needed, but only {} allowed{}", capacity.needed,
                                     capacity.own.bytes, capacity.own.see));
  }
  return Arena::create({.capacity = capacity.agreed,
                        .reserved = reserved_bytes(bootstrap.size()),
                        .skew = static_cast<std::size_t>(bootstrap.rank()) * Heap::kPage});
}

using Mappings = std::vector<std::shared_ptr<const Mapping>>;

/// Threads hand each other what they have mapped. The owners keep it until all have it.
Result<Mappings> share_in_process(Bootstrap& bootstrap, const std::vector<int>& ranks,
                                  const std::shared_ptr<const Mapping>& own) {
  const auto all = all_gather(bootstrap, &own);
  if (!all.ok()) return all.status();
  Mappings mappings;
  for (const auto* mapping : all.value()) mappings.push_back(*mapping);
  if (Status status = agree(bootstrap, ranks, {}); !status.ok()) return status;
  return mappings;
}

/// Places behind a rank, in a circle: those that it sends to at once.
struct Batch {
  int begin;
  int end;
};

Status send(const std::vector<std::vector<std::byte>>& mailboxes, int self, Batch batch,
            const Descriptor& file) {
  for (int place = batch.begin; place < batch.end; ++place) {
    const auto peer = static_cast<std::size_t>(self + place) % mailboxes.size();
    Status status = send_descriptor(as_text(mailboxes[peer]), self, file);
    if (!status.ok()) return status;
  }
  return {};
}

Result<std::shared_ptr<const Mapping>> map_arena(const Descriptor& file, std::size_t bytes) {
  Result<Mapping> mapping = Mapping::map(file, bytes);
  if (!mapping.ok()) return mapping.status();
  return std::make_shared<const Mapping>(std::move(mapping).value());
}

Status receive(const Mailbox& mailbox, Batch batch, std::size_t bytes, Mappings& mappings) {
  const Deadline deadline = std::chrono::steady_clock::now() + kPatience;
  for (int place = batch.begin; place < batch.end; ++place) {
    const Result<Mailbox::Delivery> delivery = mailbox.receive(deadline);
    if (!delivery.ok()) return delivery.status();
    const int sender = delivery.value().sender;
    if (sender < 0 || sender >= std::ssize(mappings) ||
        mappings[static_cast<std::size_t>(sender)] != nullptr) {
      return Status::error("a process that is no rank of this job sent a descriptor");
    }
    auto mapped = map_arena(delivery.value().descriptor, bytes);
    if (!mapped.ok()) return mapped.status();
    mappings[static_cast<std::size_t>(sender)] = std::move(mapped).value();
  }
  return {};
}

/// Processes send each other their arenas' descriptors. Nobody waits for one that was not sent, nor
/// sends one while any of the batch before is under way.
Result<Mappings> share_between_processes(Bootstrap& bootstrap, const std::vector<int>& ranks,
                                         const Arena& own, const Mailbox& mailbox) {
  const auto mailboxes = bootstrap.all_gather(as_bytes(mailbox.name()));
  if (!mailboxes.ok()) return mailboxes.status();
  const int size = bootstrap.size();
  Mappings mappings(static_cast<std::size_t>(size));
  mappings[static_cast<std::size_t>(bootstrap.rank())] = own.mapping();
  const int places = std::max(1, kUnderWay / size);
  for (int begin = 1; begin < size; begin += places) {
    const Batch batch = {begin, std::min(begin + places, size)};
    const Status sent = send(mailboxes.value(), bootstrap.rank(), batch, own.file());
    if (Status status = agree(bootstrap, ranks, sent); !status.ok()) return status;
    const Status received = receive(mailbox, batch, own.mapping()->bytes(), mappings);
    if (Status status = agree(bootstrap, ranks, received); !status.ok()) return status;
  }
  return mappings;
}

}  // namespace

// Every rank takes part in every round, whatever has become of it before.
Result<std::shared_ptr<Host>> Host::join(Bootstrap& bootstrap, const Settings& settings) {
  std::shared_ptr<Host> host(new Host());
  auto ranks = all_gather(bootstrap, settings.global_rank);
  if (!ranks.ok()) return ranks.status();
  host->self_ = bootstrap.rank();
  host->ranks_ = std::move(ranks).value();

  const Result<Capacity> capacity = agree_on_capacity(bootstrap, settings);
  if (!capacity.ok()) return capacity.status();
  Result<std::shared_ptr<Arena>> arena = create_arena(bootstrap, settings, capacity.value());
  Result<Mailbox> mailbox = Mailbox::open();
  Status ready = !arena.ok() ? arena.status() : !mailbox.ok() ? mailbox.status() : Status();
  if (Status status = agree(bootstrap, host->ranks_, ready); !status.ok()) return status;
  host->own_ = std::move(arena).value();

  Result<Mappings> mappings =
      bootstrap.same_process()
          ? share_in_process(bootstrap, host->ranks_, host->own_->mapping())
          : share_between_processes(bootstrap, host->ranks_, *host->own_, mailbox.value());
  if (!mappings.ok()) return mappings.status();
  host->arenas_ = std::move(mappings).value();
  return host;
}

std::optional<int> Host::local_rank(int rank) const {
  const auto found = std::ranges::find(ranks_, rank);
  if (found == ranks_.end()) return std::nullopt;
  return static_cast<int>(found - ranks_.begin());
}

Doorbell::Word& Host::doorbell(int local_rank) const {
  return *reinterpret_cast<Doorbell::Word*>(arena(local_rank).begin());
}

std::shared_ptr<Doorbell::Word> Host::own_doorbell() const { return {own_, &doorbell(self_)}; }

std::size_t Host::index_of(Section section, int sender) const {
  return static_cast<std::size_t>(section) * arenas_.size() + static_cast<std::size_t>(sender);
}

Ring& Host::ring_between(Section section, int sender, int receiver) const {
  std::byte* const rings = arena(receiver).begin() + bytes_before_rings(arenas_.size());
  return reinterpret_cast<Ring*>(rings)[index_of(section, sender)];
}

Notice& Host::notice_between(Section section, int sender, int receiver) const {
  std::byte* const notices = arena(receiver).begin() + kDoorbellBytes;
  return reinterpret_cast<Notice*>(notices)[index_of(section, sender)];
}

std::byte* Host::at(int local_rank, std::uint64_t offset, std::size_t bytes) const {
  const Mapping& mapping = arena(local_rank);
  if (offset > mapping.bytes() || bytes > mapping.bytes() - offset) return nullptr;
  return mapping.begin() + offset;
}

}  // namespace kolo::core::shm

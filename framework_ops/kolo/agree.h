#pragma once

/// What a program does besides training, so that it goes well on all ranks or fails on all: a file
/// that is missing on one host ends every rank with an error, instead of leaving the others to
/// wait.
///
/// All are collective: every rank of the process set calls them, in the same order, from one thread
/// at a time. They throw kolo::Error before init() and after shutdown(). Nothing that waits for
/// other ranks belongs into `work`.

#include <kolo/process_set.h>

#include <functional>
#include <string>

namespace kolo {

/// Runs `work` on every rank, and returns when it is done on all of them.
///
/// @throws when it has thrown on any rank: there, what it threw; on the others kolo::Error, which
///         names the first such rank, and its message.
void agree(const std::function<void()>& work, const ProcessSet& process_set = {});

/// Runs `work` on one rank, a global one of the set, and returns on all when it is done there:
///
///   kolo::on_rank(0, [&] { torch::save(model, "model.pt"); });
///
/// @throws as agree() when it has thrown; kolo::Error on every rank when they do not name the same
///         rank, or that is not of the set.
void on_rank(int rank, const std::function<void()>& work, const ProcessSet& process_set = {});

/// Returns when every rank has said the same text. `what` is for the message: in the plural, such
/// as "numbers of batches". @throws kolo::Error on every rank with the first line that differs, and
/// who said what.
void require_same(const std::string& what, const std::string& text,
                  const ProcessSet& process_set = {});

}  // namespace kolo

/*
 * The baton (collectives/engine/baton.h): the coordinator's thread, and CALLERS (2 or 3) threads of which each
 * submits one operation, and waits for it or goes away, or runs it by itself while nobody works. Whoever holds
 * the baton sends what was submitted, and ends what the peers have answered; the peers answer in any order, and
 * ring. The rank may leave at any time, and then one operation is answered only after that.
 *
 * When nothing can move any more, all operations must be done, and the thread at its end if the rank leaves.
 * A mutex is an atomic block; a condition variable wakes who sleeps, and nobody else.
 */

mtype = {NEW, QUEUED, SENT, ANSWERED, DONE};
mtype = {NOBODY, THREAD, CALLER};

mtype operation[CALLERS] = NEW;
/* Whether this rank leaves at all, and how far it is. */
bool leaves, leave_called, leaving, left;

/* The doorbell, on which only a holder sleeps. */
bool rung;

mtype state = NOBODY;
bool needed, closed, recalled;
bool thread_sleeps;
/* By caller: whether it is in waiting_, sleeps on its Work, and was woken by nudge(). */
bool queued[CALLERS], sleeps[CALLERS], nudged[CALLERS];

inline notify_thread() { thread_sleeps = false }

inline look_for_work(found) {
  found = leave_called && !leaving;
  for (k : 0 .. CALLERS - 1) {
    found = found || (operation[k] != NEW && operation[k] != DONE)
  }
  k = 0
}

inline wake_next() {
  if
  :: closed -> notify_thread()
  :: else ->
    k = 0;
    do
    :: k < CALLERS && !queued[k] -> k++
    :: else -> break
    od;
    if
    :: k < CALLERS -> queued[k] = false; nudged[k] = true; sleeps[k] = false
    :: else -> notify_thread()
    fi;
    k = 0
  fi
}

inline release() {
  atomic {
    state = NOBODY;
    recalled = false;
    look_for_work(found);
#ifdef MUTATE_WORK_IS_LEFT_BEHIND
    found = false;
#endif
    needed = closed || found;
    if
    :: needed -> wake_next()
    :: else
    fi;
    found = false
  }
}

inline call(awaited) {
  atomic {
    if
    :: state != NOBODY ->
#ifndef MUTATE_HOLDER_IS_NOT_RUNG
      rung = true
#else
      skip
#endif
    :: state == NOBODY && !awaited -> needed = true; notify_thread()
    :: else
    fi
  }
}

/* What the holder does; `mine` is CALLERS for the thread. */
inline work(mine) {
  do
  :: recalled -> break
  :: !recalled ->
    atomic {
      moved = leave_called && !leaving;
      leaving = leave_called;
      for (k : 0 .. CALLERS - 1) {
        if
        :: operation[k] == QUEUED -> operation[k] = SENT; moved = true
        :: operation[k] == ANSWERED -> operation[k] = DONE; sleeps[k] = false; moved = true
        :: else
        fi
      }
      k = 0
    };
    if
    :: mine < CALLERS && operation[mine] == DONE -> break
    :: else
    fi;
    atomic {
      if
      :: moved
      :: else ->
        look_for_work(found);
        if
        :: !found -> break
        :: else -> found = false
        fi
      fi
    };
    if
    :: moved
    :: !moved -> atomic { rung -> rung = false }
    fi
  od;
  atomic { moved = false; found = false }
}

active proctype Thread() {
  byte k;
  bool found, moved, finished;
  do
  :: finished -> break
  :: else ->
    do
    :: atomic { state == NOBODY && (needed || closed) -> state = THREAD; needed = false; break }
    :: atomic { !(state == NOBODY && (needed || closed)) -> thread_sleeps = true };
endsleep:
      !thread_sleeps
    od;
    work(CALLERS);
    atomic {
      look_for_work(found);
      finished = leaving && !found;
      found = false
    };
    release()
  od;
  left = true
}

proctype Caller(byte self) {
  byte k;
  bool found, moved, awaited, waits;
  /* take_if_idle() */
  atomic {
    if
    :: CALLERS == 2 && state == NOBODY && !needed && !closed ->
       state = CALLER;
       operation[self] = SENT;
       waits = true
    :: skip
    fi
  };
  if
  :: waits -> work(self); release(); goto waiting
  :: else
  fi;
  /* Of three, one waits at once. */
  if
  :: awaited = true; waits = true
  :: CALLERS == 2 || self == 1 -> waits = true
  :: CALLERS == 2 || self == 2 -> skip
  fi;
  atomic {
    if
    :: leave_called -> operation[self] = DONE; goto gone
    :: else -> operation[self] = QUEUED
    fi
  };
  call(awaited);
  if
  :: waits
  :: else -> goto gone
  fi;
waiting:
  do
  :: atomic { operation[self] == DONE -> break }
  :: atomic {
      operation[self] != DONE && state == NOBODY && !closed -> state = CALLER; needed = false
    };
    work(self);
    release()
  :: atomic {
      operation[self] != DONE && !(state == NOBODY && !closed) ->
      queued[self] = true;
      if
      :: state == THREAD && !closed -> recalled = true; rung = true
      :: else
      fi
    };
    atomic { sleeps[self] = operation[self] != DONE && !nudged[self] };
    !sleeps[self];
    nudged[self] = false;
    atomic { queued[self] = false }
  od;
  atomic {
    if
#ifndef MUTATE_WOKEN_IN_VAIN
    :: state == NOBODY && needed -> wake_next()
#endif
    :: else
    fi
  };
gone:
  skip
}

active proctype Peers() {
end:
  do
  :: atomic { operation[0] == SENT && (leaving || !leaves) -> operation[0] = ANSWERED; rung = true }
  :: atomic { operation[1] == SENT -> operation[1] = ANSWERED; rung = true }
#if CALLERS > 2
  :: atomic { operation[2] == SENT -> operation[2] = ANSWERED; rung = true }
#endif
  od
}

active proctype Leaver() {
  if
  :: leaves = true
  :: goto stays
  fi;
  leave_called = true;
  atomic {
    closed = true;
    if
    :: state == NOBODY -> notify_thread()
    :: else -> rung = true
    fi
  };
stays:
  skip
}

active proctype Check() {
  timeout;
  assert(operation[0] == DONE && operation[1] == DONE && operation[CALLERS - 1] == DONE);
  assert(!leaves || left)
}

init {
  atomic {
    run Caller(0);
    run Caller(1);
    if
    :: CALLERS > 2 -> run Caller(2)
    :: else
    fi
  }
}

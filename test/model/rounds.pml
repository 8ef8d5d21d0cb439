/* The rounds of DistributedOptimizer::Reducer (framework_ops/reducer.h), and the calls of a family of one
 * (framework_ops/optimizer_family.h), on the plans of the coordinator (collectives/engine/coordinator.h), with
 * ranks that leave or fail at any time.
 *
 * Each rank is two processes.
 *   User         the thread that calls backward(), synchronize() and step(): any ACTIONS of them, in any order, with or
 *                without trouble. After an exception it does not call step() before a backward() that
 *                ended well: who disregards an exception is not modelled.
 *   Coordinator  the coordinator's thread: what comes from other ranks, leave(), one broken plane.
 *                leave() comes after the user's program, or, on a rank that is `hasty`, at any time,
 *                as when another thread calls kolo::shutdown(); HASTY says which ranks may be.
 *
 * As in the code: the fields of ClosingWord and CallHead, step_, round_, passes_, local_, rounds_, latecomer_;
 * the states Running, Leaving and Failed; the messages; how many operations each rank has enqueued, and where a
 * channel ends.
 * Abstracted:
 *   - a plan has one group of one parameter. A round is two operations: the group, and the closing word. After
 *     the first round that is accepted comes the broadcast of the groups. `fresh` is the parameter's; it is set
 *     once more after its group has started when a backward inside a backward does so;
 *   - submit() and the coordinator's taking of it are one step, which the scheduler may delay;
 *   - an operation of the data plane is done on a member when all members have started it;
 *   - a rank may alter its gradients before a backward() or step(), if one came late to the last round; else all
 *     do the same;
 *   - one process set, led by rank 0;
 *   - whether a rank repeats may be true or false;
 *   - what all say where options or parameters differ: the round is refused as for an exception on one rank, after an
 *     operation that whoever has heard the words takes part in, or leaves;
 *   - a message to a rank that has ended is lost.
 *
 * What has no meaning any more is set to zero, so that states which differ in it alone are searched once.
 *
 * Checked: nobody waits for ever (a state without a successor in which a process has not ended is an error),
 * and the assertions. MUTATE_* each break the protocol in one place: the check must find it.
 */
#ifndef N
#define N 2
#endif
#ifndef ACTIONS
#define ACTIONS 3
#endif
#ifndef FAILURES
#define FAILURES 1
#endif
#define ALL ((1 << N) - 1)
#ifndef HASTY
#define HASTY ALL
#endif
#define FOREVER 255

mtype:state = { Running, Leaving, Failed, Ended };
mtype:message = { Leave, MemberLeft, AllLeft, Failure };
/* UnfitGradient is Exception to all that is modelled. */
mtype:trouble = { None, Exception };

typedef ClosingWord {
  byte step;
  byte round;
  mtype:trouble trouble;
  bool in_step;
  bool repeats;
  bool carries
}

/* A closing word is overwritten by the next but one: nobody says that before all have heard this one. */
typedef Round {
  ClosingWord words[N];
  byte heard; /* by so many ranks */
  bool accepted
}
Round rounds[2];

/* So is a call. */
typedef Call {
  bool in_step;
  bool closes;
  bool altered
}
typedef Calls {
  Call from[N];
  byte heard /* by so many ranks */
}
Calls calls[2];

chan wire[N * N] = [N + 3] of { mtype:message, byte, byte };
#define TO(source, destination) wire[(source) * N + (destination)]

mtype:state state[N] = Running;
bool failure[N];
bool done[N];
bool hasty[N];
byte enqueued[N];
byte started[N];
byte end_of_plan[N] = FOREVER;
/* The same of the family's plan. */
byte calls_enqueued[N];
byte calls_started[N];
byte end_of_calls[N] = FOREVER;
bool all_left[N];
byte failures;

/* At the leader. */
byte left;

/* By operation: with which plan it was started. Those of three rounds are told apart, and the broadcast. */
byte plan_of[7];
/* By step: how many rounds had been accepted when it was applied, plus one, and whether what they gave was
 * altered. */
byte applied[ACTIONS + 1];

/* Have no meaning between two steps. */
hidden byte k, w, c, accepted, meets;

#if N == 2
#define ALL_STARTED(n) (started[0] > (n) && started[1] > (n))
#define ALL_CALLED(n) (calls_started[0] > (n) && calls_started[1] > (n))
#define ANY_CLOSES (calls[c].from[0].closes || calls[c].from[1].closes)
#define ANY_ALTERED (calls[c].from[0].altered || calls[c].from[1].altered)
#define ALL_ALTERED (calls[c].from[0].altered && calls[c].from[1].altered)
#define ALL_CALL_IN_STEP (calls[c].from[0].in_step && calls[c].from[1].in_step)
#define ANY_IN_STEP (rounds[w].words[0].in_step || rounds[w].words[1].in_step)
#define ANY_LEFT_BEFORE(n) \
  ((state[0] != Running && enqueued[0] <= (n)) || (state[1] != Running && enqueued[1] <= (n)))
#define ANY_MESSAGE (len(TO(0, me)) + len(TO(1, me)) > 0)
#define ANY_CARRIES (rounds[w].words[0].carries || rounds[w].words[1].carries)
#define ALL_IN_STEP (rounds[w].words[0].in_step && rounds[w].words[1].in_step)
#define ALL_REPEAT (rounds[w].words[0].repeats && rounds[w].words[1].repeats)
#else
#define ALL_STARTED(n) (started[0] > (n) && started[1] > (n) && started[2] > (n))
#define ALL_CALLED(n) (calls_started[0] > (n) && calls_started[1] > (n) && calls_started[2] > (n))
#define ANY_CLOSES \
  (calls[c].from[0].closes || calls[c].from[1].closes || calls[c].from[2].closes)
#define ANY_ALTERED \
  (calls[c].from[0].altered || calls[c].from[1].altered || calls[c].from[2].altered)
#define ALL_ALTERED \
  (calls[c].from[0].altered && calls[c].from[1].altered && calls[c].from[2].altered)
#define ALL_CALL_IN_STEP \
  (calls[c].from[0].in_step && calls[c].from[1].in_step && calls[c].from[2].in_step)
#define ANY_IN_STEP \
  (rounds[w].words[0].in_step || rounds[w].words[1].in_step || rounds[w].words[2].in_step)
#define ANY_LEFT_BEFORE(n) \
  ((state[0] != Running && enqueued[0] <= (n)) || (state[1] != Running && enqueued[1] <= (n)) || \
   (state[2] != Running && enqueued[2] <= (n)))
#define ANY_MESSAGE (len(TO(0, me)) + len(TO(1, me)) + len(TO(2, me)) > 0)
#define ANY_CARRIES \
  (rounds[w].words[0].carries || rounds[w].words[1].carries || rounds[w].words[2].carries)
#define ALL_IN_STEP \
  (rounds[w].words[0].in_step && rounds[w].words[1].in_step && rounds[w].words[2].in_step)
#define ALL_REPEAT \
  (rounds[w].words[0].repeats && rounds[w].words[1].repeats && rounds[w].words[2].repeats)
#endif
#define NOBODY_ELSE_STARTED(n) (started[(me + 1) % N] <= (n) && started[(me + N - 1) % N] <= (n))
/* What this rank has started and not given up is done. */
#define IN_FLIGHT (started[me] < end_of_plan[me] -> started[me] : end_of_plan[me])
#define CALLS_IN_FLIGHT (calls_started[me] < end_of_calls[me] -> calls_started[me] : end_of_calls[me])
#define EXECUTOR_IDLE \
  ((IN_FLIGHT == 0 || ALL_STARTED(IN_FLIGHT - 1)) && \
   (CALLS_IN_FLIGHT == 0 || ALL_CALLED(CALLS_IN_FLIGHT - 1)))

inline send(sender, receiver, what, said, how_many) {
  if
  :: state[receiver] != Ended -> TO(sender, receiver)!what(said, how_many)
  :: else
  fi
}

/* ---- the coordinator ---- */

inline end_plans(whose, first_call_ended, first_ended) {
  if
  :: first_ended < end_of_plan[whose] -> end_of_plan[whose] = first_ended
  :: else
  fi;
  if
  :: first_call_ended < end_of_calls[whose] -> end_of_calls[whose] = first_call_ended
  :: else
  fi
}

inline handle_leave(leaver, said, operations) {
  left = left | (1 << leaver);
#ifndef MUTATE_NO_MEMBER_LEFT
  for (k : 1 .. N - 1) {
    if
#ifdef MUTATE_LEAVERS_NOT_TOLD
    :: !(left & (1 << k)) -> send(0, k, MemberLeft, said, operations)
#else
    :: k != leaver -> send(0, k, MemberLeft, said, operations)
#endif
    :: else
    fi
  }
  end_plans(0, said, operations);
#endif
  if
  :: left == ALL ->
     all_left[0] = true;
     for (k : 1 .. N - 1) { send(0, k, AllLeft, 0, 0) }
  :: else
  fi
}

inline fail() {
  failure[me] = true;
  state[me] = (state[me] == Leaving -> Ended : Failed)
}

/* Who has ended hears nothing more. */
inline forget_messages() {
  for (k : 0 .. N - 1) {
    do
    :: nempty(TO(k, me)) -> TO(k, me)?_(_, _)
    :: empty(TO(k, me)) -> break
    od
  }
}

/* What is one way through only, and does not wait, is a d_step, here and below. */
proctype Coordinator(byte me) {
  byte source, said, number;
  mtype:message message;
  do
  :: d_step {
       state[me] == Running && (done[me] || hasty[me]) ->
       state[me] = Leaving;
       if
       :: me == 0 -> handle_leave(0, calls_enqueued[0], enqueued[0])
       :: else -> send(me, 0, Leave, calls_enqueued[me], enqueued[me])
       fi;
       hasty[me] = false
     }
  :: d_step {
       state[me] == Failed && (done[me] || hasty[me]) ->
       state[me] = Ended;
       if
       :: me != 0 -> send(me, 0, Failure, 0, 0)
       :: else
       fi
     }
  :: d_step {
       failures > 0 && (state[me] == Running || state[me] == Leaving) ->
       failures--;
       for (k : 0 .. N - 1) {
         if
         :: k != me -> send(me, k, Failure, 0, 0)
         :: else
         fi
       }
       fail()
     }
  :: d_step { state[me] == Leaving && all_left[me] && EXECUTOR_IDLE -> state[me] = Ended }
  :: atomic {
       state[me] != Ended && ANY_MESSAGE ->
       if
       :: TO(0, me)?message(said, number) -> source = 0
       :: TO(1, me)?message(said, number) -> source = 1
#if N > 2
       :: TO(2, me)?message(said, number) -> source = 2
#endif
       fi;
       d_step {
         if
         :: message == Leave -> handle_leave(source, said, number)
         :: message == MemberLeft -> end_plans(me, said, number)
         :: message == AllLeft -> all_left[me] = true
         :: message == Failure && !failure[me] -> fail()
         :: message == Failure && failure[me]
         fi;
         source = 0; said = 0; number = 0; message = 0
       }
     }
  :: d_step { state[me] == Ended -> forget_messages(); hasty[me] = false; all_left[me] = false }; break
  od
}

/* ---- the reducer ---- */

/* Gives the operation's number, or FOREVER where it is refused. */
inline submit(operation) {
  if
  :: state[me] != Running -> operation = FOREVER
  :: else ->
     operation = enqueued[me];
     enqueued[me]++;
     if
     :: operation < end_of_plan[me] ->
        /* What one rank starts as its n-th operation, all start, with the same plan. */
        if
        :: NOBODY_ELSE_STARTED(operation) -> plan_of[operation % 7] = plan
        :: else -> assert(plan_of[operation % 7] == plan)
        fi;
        started[me]++;
        if
        :: ALL_STARTED(operation) -> plan_of[operation % 7] = 0
        :: else
        fi
     :: else
     fi
  fi
}

/* In a backward, one inside it may bring another gradient after that. */
inline start_group() {
  d_step { submit(group); fresh = false };
  if
  :: skip
  :: in_backward -> fresh = true
  fi
}

inline say() {
  d_step {
    submit(word);
    assert(word == FOREVER || group == FOREVER || word == group + 1);
    slot = 1 - slot;
    if
    :: word != FOREVER && word < end_of_plan[me] ->
       w = slot;
       if
       :: NOBODY_ELSE_STARTED(word) -> rounds[w].heard = 0; rounds[w].accepted = false
       :: else
       fi;
       rounds[w].words[me].step = step_;
       rounds[w].words[me].round = round_;
       rounds[w].words[me].trouble = trouble;
       rounds[w].words[me].in_step = in_step;
       rounds[w].words[me].repeats = false;
       rounds[w].words[me].carries = fresh
    :: else
    fi
  };
  if
  :: skip
  :: in_step && !passes_ && round_ == 0 && word != FOREVER && word < end_of_plan[me] ->
     rounds[slot].words[me].repeats = true
  fi;
  round_++
}

/* An operation is waited for no longer. */
#define OVER(operation) \
  (operation == FOREVER || failure[me] || ALL_STARTED(operation) || operation >= end_of_plan[me])

/* Whoever leaves has not started what ends. */
inline conclude(operation) {
  if
  :: operation == FOREVER || failure[me] -> threw = true
  :: operation != FOREVER && !failure[me] && ALL_STARTED(operation) ->
     assert(operation < end_of_plan[me])
  :: else ->
     assert(ANY_LEFT_BEFORE(operation));
     threw = true
  fi
}

/* ---- the family ---- */

inline say_call() {
  if
  :: state[me] != Running -> call = FOREVER
  :: else ->
     call = calls_enqueued[me];
     calls_enqueued[me]++;
     if
     :: call < end_of_calls[me] ->
        calls_started[me]++;
        c = call % 2;
        assert(calls[c].heard == 0);
        calls[c].from[me].in_step = in_step;
        calls[c].from[me].closes = closed;
        calls[c].from[me].altered = altered
     :: else
     fi
  fi
}

#define CALL_OVER \
  (call == FOREVER || failure[me] || ALL_CALLED(call) || call >= end_of_calls[me])

inline forget_call() {
  for (k : 0 .. N - 1) {
    calls[c].from[k].in_step = false;
    calls[c].from[k].closes = false;
    calls[c].from[k].altered = false
  }
  calls[c].heard = 0
}

/* In step(), and without a round. */
inline end_meeting() {
  if
  :: threw || disagreed -> told = true
  :: else -> apply_step()
  fi;
  threw = false; disagreed = false; in_step = false
}

/* Whether there is a round, and whether all may go on with what it gives. */
inline hear_call() {
  meets = false;
  if
  :: call != FOREVER && !failure[me] && ALL_CALLED(call) ->
     assert(call < end_of_calls[me]);
     c = call % 2;
#ifndef MUTATE_IGNORE_ALTERATION
     disagreed = ANY_ALTERED && !ALL_ALTERED;
#endif
     meets = ANY_CLOSES;
     assert(meets || ALL_CALL_IN_STEP);
     calls[c].heard++;
     if
     :: calls[c].heard == N -> forget_call()
     :: else
     fi
  :: else -> threw = true
  fi;
  if
  :: closed -> waits = true
  :: !closed && meets -> another = true
  :: !closed && !meets -> end_meeting()
  fi;
  call = 0; closed = false; altered = false
}

inline find_disagreement() {
  accepted = true;
  for (k : 0 .. N - 1) {
    if
#ifdef MUTATE_IGNORE_TROUBLE
    :: me != 1 && rounds[w].words[k].trouble != None -> accepted = false
#else
    :: rounds[w].words[k].trouble != None -> accepted = false
#endif
    :: rounds[w].words[k].step != rounds[w].words[0].step -> accepted = false
    :: rounds[w].words[k].round != rounds[w].words[0].round -> accepted = false
    :: rounds[w].words[k].repeats && (!ALL_IN_STEP || !ALL_REPEAT) -> accepted = false
    :: else
    fi
  }
}

inline follow() {
  step_ = 0;
  round_ = 0;
  for (k : 0 .. N - 1) {
    if
    :: rounds[w].words[k].step > step_ ||
       (rounds[w].words[k].step == step_ && rounds[w].words[k].round > round_) ->
       step_ = rounds[w].words[k].step;
       round_ = rounds[w].words[k].round
    :: else
    fi
  }
  round_++
}

inline forget_words() {
  for (k : 0 .. N - 1) {
    rounds[w].words[k].step = 0;
    rounds[w].words[k].round = 0;
    rounds[w].words[k].trouble = 0;
    rounds[w].words[k].in_step = false;
    rounds[w].words[k].repeats = false;
    rounds[w].words[k].carries = false
  }
  rounds[w].heard = 0;
  rounds[w].accepted = false
}

/* The groups are sent after the first round and adopted after the second. In the code it is the third and the
 * fourth: before, ranks only count and note times (framework_ops/group_tuning.h), each for itself. Who has started
 * the round between has started the broadcast before it: to adopt is to wait for it, unless the plane breaks.
 */
inline adopt_groups() {
  assert(groups < end_of_plan[me] && ALL_STARTED(groups));
  if
  :: failure[me] -> threw = true
  :: else -> plan = 1
  fi;
  groups = 0
}

inline use_words() {
  d_step {
    w = slot;
    find_disagreement();
    /* The same words, the same verdict. */
    assert(rounds[w].heard == 0 || rounds[w].accepted == accepted);
    rounds[w].heard++;
    rounds[w].accepted = accepted;
    follow();
    another = accepted && ANY_CARRIES;
    late = accepted && !another && ANY_IN_STEP && !ALL_IN_STEP;
    adopts = false;
    if
    :: accepted ->
       accepted_rounds++;
       rounds_ = (rounds_ < 3 -> rounds_ + 1 : 3);
       if
       :: rounds_ == 1 ->
          submit(groups);
#ifdef MUTATE_ADOPT_EARLY
          plan = (me == 1 -> 1 : 0)
#endif
       :: else -> adopts = rounds_ == 2
       fi
    :: else -> threw = true
    fi;
    if
    :: rounds[w].heard == N -> forget_words()
    :: else
    fi
  };
  if
  :: adopts -> adopts = false; adopt_groups()
  :: else
  fi
}

/* Who applies a step has accepted what the others have that apply it. */
inline apply_step() {
  assert(round_ > 0);
  assert(applied[step_] == 0 || applied[step_] == 2 * accepted_rounds + 2 + altered);
  applied[step_] = 2 * accepted_rounds + 2 + altered;
  step_++;
  round_ = 0;
  passes_ = false
}

inline finish_round() {
  d_step { conclude(word); conclude(group) };
  if
  :: !threw -> use_words()
  :: else
  fi;
  d_step {
    trouble = None;
    in_backward = false;
    if
    :: threw || (disagreed && !another) ->
       told = true; another = false; local_ = false; in_step = false; late = false
    :: !threw && another
    :: !threw && !another && !disagreed ->
       local_ = false;
       if
       :: in_step && late -> says = true; late = false
       :: in_step && !late -> apply_step(); in_step = false
       :: else -> told = false
       fi
    fi;
    disagreed = disagreed && another;
    threw = false; group = 0; word = 0
  }
}

#define RESTS (!closes && !says && !hears && !waits && !another)

/* At once after the last action: that the program has ended is seen by its own coordinator alone. */
inline end_program() {
  d_step {
    done[me] = true;
    hasty[me] = false;
    actions = 0; step_ = 0; round_ = 0; rounds_ = 0; accepted_rounds = 0; plan = 0;
    groups = 0; slot = 0;
    fresh = false; local_ = false; passes_ = false; in_backward = false; late = false; altered = false;
    told = false
  }
}

proctype User(byte me) {
  byte group, word, groups, slot, call, actions, step_, round_, rounds_, accepted_rounds, plan;
  bool fresh, local_, passes_, in_backward, in_step, late, altered, disagreed;
  bool opens, closes, closed, says, hears, waits, another, threw, adopts, told;
  mtype:trouble trouble = None;
  do
  :: atomic {
       RESTS && actions < ACTIONS && state[me] == Running ->
       actions++;
       if
       :: skip
       :: late && !altered -> altered = true
       fi;
       if
       :: /* backward() */
          fresh = true; passes_ = true; in_backward = true; opens = true;
          if
          :: skip
          :: trouble = Exception
          fi
       :: /* backward() under no_sync() */
          fresh = true; passes_ = true; local_ = true
       :: /* synchronize() */
          opens = true
       :: /* step() */
          !told ->
          if
          :: !fresh && !local_ && round_ > 0 && !late -> apply_step()
          :: !fresh && !local_ && round_ > 0 && late -> in_step = true; says = true
          :: else ->
             in_step = true; opens = true;
             if
             :: skip
             :: trouble = Exception /* check_step() */
             fi
          fi
       fi;
       if
       :: opens ->
          start_group();
          opens = false;
          closes = true;
#ifdef MUTATE_CALL_IN_STEP_ALONE
          closed = late && in_step
#else
          closed = late
#endif
       :: else
       fi;
       late = late && RESTS;
       if
       :: RESTS && actions == ACTIONS -> end_program(); break
       :: else
       fi
     }
  :: atomic { closes -> say(); closes = false; says = closed; waits = !closed }
  :: d_step { says -> say_call(); says = false; hears = true }
  :: atomic {
       hears && CALL_OVER ->
       d_step { hear_call(); hears = false };
       if
       :: RESTS && actions == ACTIONS -> end_program(); break
       :: else
       fi
     }
  :: atomic {
       waits && OVER(word) && OVER(group) ->
       finish_round();
       waits = false;
       if
       :: RESTS && actions == ACTIONS -> end_program(); break
       :: else
       fi
     }
  :: atomic { another -> start_group(); another = false; closes = true }
  :: atomic { RESTS -> end_program(); break }
  od
}

init {
  byte rank;
  atomic {
    failures = FAILURES;
    for (rank : 0 .. N - 1) {
      if
      :: HASTY & (1 << rank) -> hasty[rank] = true
      :: hasty[rank] = false
      fi;
      run User(rank);
      run Coordinator(rank)
    }
  }
}

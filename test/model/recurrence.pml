/* All-reduces that recur under one name: collectives/engine/recurrence.h, with what it needs of the leader's table
 * (negotiator.h), of plans and how they end (plans.h, executor.h), and of leaving (coordinator.h).
 *
 * The name recurs when it begins. Every rank submits it up to SUBMISSIONS times, the next when the last is done;
 * each asks for one of two things, or is refused on its own rank, if REFUSED is 1. Ranks leave at any time between
 * two submissions, or, those in HASTY, at any time.
 *
 * As in the code: the messages; of ProcessSets take(), hand_in_again(), execute() and answer(); of Plans start()
 * and end(); of Executor end(), give_up() and finish(); RecurrenceFinder::find(); of Coordinator begin_leaving() and
 * release_members(); and of Negotiator what negotiation.pml has, with the kinds of errors told apart, and with
 * replies that wait for answer().
 * Abstracted:
 *   - a request's dtype, shape and so on are one bit, `unlike`; all wait for every operation;
 *   - what was negotiated is done when it has been agreed on;
 *   - an operation of the data plane is done on a member when all members have given, or declined: declined if
 *     any did. run_now() is a start of the plan's next operation, whose end is seen some time after it;
 *   - what a MemberLeft says is read where the leaver wrote it down as it left;
 *   - a plan has a place here from the start, so what Plans::departures_ keeps is applied at once;
 *   - a rank that has something to hand in again does that, or leaves, before it looks at anything else;
 *   - ranks listen at any time.
 *
 * What has no meaning any more is set to zero, so that states which differ in it alone are searched once.
 *
 * Checked: nobody waits for ever. A submission is done only when each rank's submission of that number asks for
 * the same, and then on all ranks that do not leave before it is. If it fails, all that the leader tells about it
 * are told the same; only a rank that leaves meanwhile, or whose own call was refused, says so itself. MUTATE_*
 * each break the protocol in one place: the check must find it.
 */
#ifndef N
#define N 2
#endif
#ifndef SUBMISSIONS
#define SUBMISSIONS 4
#endif
#define ALL ((1 << N) - 1)
/* The first one is there when it begins; any other comes after the name was negotiated twice. */
#define PLANS (1 + SUBMISSIONS / 2)
#ifndef HASTY
#define HASTY ALL
#endif
#ifndef REFUSED
#define REFUSED 1
#endif
#define FOREVER 255

mtype:state = { Running, Leaving, Ended };
mtype:message = { Request, Response, Leave, MemberLeft, AllLeft };
mtype:outcome = { Done, Unlike, Refused, Left };
/* For what a rank's latest submission waits: an answer, the plan's operation, or to be handed in again. */
mtype:waits = { ForLeader, ForPlan, Declined };

/* ---- the leader's table ---- */

typedef Operation {
  mtype:outcome error;
  bool unlike;    /* what the first request asks for */
  byte submitted; /* members, as bits, here and below */
  byte waiting;
  byte number     /* of the ranks' submissions, which is for the check alone */
}
/* Those that have not ended, in the order of their coming. */
Operation operations[SUBMISSIONS + 1];
byte open;
byte left;
mtype:outcome reply[N];
byte reply_plan[N];
/* RecurrenceFinder: 1 + unlike of what was last agreed on, or 0. Plans are numbered from 1. */
byte last;
byte plans = 1;
bool plan_unlike[PLANS + 1];

/* ---- a rank ---- */

chan to_leader[N] = [SUBMISSIONS + 2] of { mtype:message, byte, byte, byte };
chan from_leader[N] = [N + 2] of { mtype:message, byte, byte, byte };

mtype:state state[N] = Running;
byte submissions[N];
mtype:waits waits[N];
bool asks_for[N];
/* In which the name recurs: RecurringNames. */
byte recurs[N] = 1;
bool all_left[N];
/* May leave while it waits. */
bool hasty[N];

/* ---- the executor's channels: of each rank one for each plan ---- */

#define CHANNEL(who, plan) ((who) * PLANS + (plan) - 1)
byte next_sequence[N * PLANS];
bool in_flight[N * PLANS];
bool declines[N * PLANS];
byte end[N * PLANS] = FOREVER;
/* What Leave says of each. */
byte progress[N * PLANS];

/* ---- the data plane's operations: of each plan one for each submission ---- */

#define MEETING(who, plan) (((plan) - 1) * SUBMISSIONS + next_sequence[CHANNEL(who, plan)] - 1)
typedef Meeting {
  byte come; /* members, as bits, here and below */
  byte gone;
  bool declined;
  byte number
}
Meeting meetings[PLANS * SUBMISSIONS];
#define READY(who, plan) (in_flight[CHANNEL(who, plan)] && meetings[MEETING(who, plan)].come == ALL)
#if SUBMISSIONS > 5
#error "more plans than ANY_READY knows of"
#elif SUBMISSIONS > 3
#define ANY_READY(who) (READY(who, 1) || READY(who, 2) || READY(who, 3))
#define BUSY(who) (in_flight[CHANNEL(who, 1)] || in_flight[CHANNEL(who, 2)] || in_flight[CHANNEL(who, 3)])
#else
#define ANY_READY(who) (READY(who, 1) || READY(who, 2))
#define BUSY(who) (in_flight[CHANNEL(who, 1)] || in_flight[CHANNEL(who, 2)])
#endif

/* ---- what is checked: of the ranks' submissions of each number ---- */

typedef Submission {
  bool usual, unlike, refused; /* what any rank has asked for */
  bool failed;                 /* on any rank */
  mtype:outcome told;          /* to any rank, by the leader or the data plane */
  byte ended                   /* on these ranks */
}
Submission all[SUBMISSIONS + 1];

#if N == 2
#define ANY_REPLY (reply[0] != 0 || reply[1] != 0)
#define ANY_REQUEST (len(to_leader[1]) > 0)
#define ALL_SUBMITTED(number) (submissions[0] >= number && submissions[1] >= number)
#else
#define ANY_REPLY (reply[0] != 0 || reply[1] != 0 || reply[2] != 0)
#define ANY_REQUEST (len(to_leader[1]) + len(to_leader[2]) > 0)
#define ALL_SUBMITTED(number) (submissions[0] >= number && submissions[1] >= number && submissions[2] >= number)
#endif

/* Have no meaning between two steps. */
hidden byte i, k, m, op, p, meeting, plan;

/* The rank's latest submission has come to its end. */
inline learn(who) {
  waits[who] = 0;
  asks_for[who] = false;
  hasty[who] = hasty[who] && submissions[who] < SUBMISSIONS;
  all[submissions[who]].ended = all[submissions[who]].ended | (1 << who);
  if
  :: all[submissions[who]].ended == ALL ->
     all[submissions[who]].usual = false;
     all[submissions[who]].unlike = false;
     all[submissions[who]].refused = false;
     all[submissions[who]].failed = false;
     all[submissions[who]].told = 0;
     all[submissions[who]].ended = 0
  :: else
  fi
}

/* What all are told alike. */
inline learn_told(who, what) {
  assert(all[submissions[who]].told == 0 || all[submissions[who]].told == what);
  all[submissions[who]].told = what;
  if
  :: what == Done ->
     assert(ALL_SUBMITTED(submissions[who]) && !all[submissions[who]].failed);
     assert(!all[submissions[who]].refused);
     assert(all[submissions[who]].usual != all[submissions[who]].unlike)
  :: else -> all[submissions[who]].failed = true
  fi;
  learn(who)
}

/* What this rank finds out by itself. */
inline learn_error(who) {
  assert(all[submissions[who]].told != Done);
  all[submissions[who]].failed = true;
  learn(who)
}

/* ---- the leader: Negotiator ---- */

inline forget_if_ended(o) {
  if
  :: operations[o].submitted == ALL ->
     for (k : o .. SUBMISSIONS - 1) {
       operations[k].error = operations[k + 1].error;
       operations[k].unlike = operations[k + 1].unlike;
       operations[k].submitted = operations[k + 1].submitted;
       operations[k].waiting = operations[k + 1].waiting;
       operations[k].number = operations[k + 1].number
     }
     open--
  :: else
  fi
}

inline fail(o, what) {
  if
  :: operations[o].error == 0 -> operations[o].error = what
  :: else
  fi;
  for (m : 0 .. N - 1) {
    if
    :: operations[o].waiting & (1 << m) -> assert(reply[m] == 0); reply[m] = operations[o].error
    :: else
    fi
  }
  operations[o].waiting = 0
}

/* RecurrenceFinder::find() */
inline find(asks) {
  if
  :: last == 1 + asks ->
     last = 0;
#ifdef MUTATE_SAME_PLAN_AGAIN
     plans = 1;
#else
     plans++;
#endif
     plan = plans;
     plan_unlike[plan] = asks
  :: else ->
     last = 1 + asks;
     plan = 0
  fi
}

inline conclude(o) {
  find(operations[o].unlike);
  for (m : 0 .. N - 1) {
    assert(reply[m] == 0);
    reply[m] = Done;
#ifdef MUTATE_PLANS_DIFFER
    reply_plan[m] = (plan == 0 || m == 0 -> plan : plan % PLANS + 1)
#else
    reply_plan[m] = plan
#endif
  }
  operations[o].waiting = 0
}

inline operation_for(who, asks, what_number) {
  op = 0;
  do
  :: op < open && operations[op].submitted & (1 << who) -> op++
  :: else -> break
  od;
  if
  :: op == open ->
     open++;
     operations[op].submitted = left;
     operations[op].error = (left != 0 -> Left : 0);
     operations[op].unlike = asks;
     operations[op].number = what_number
  :: else
  fi
}

inline add(who, asks, refused, what_number) {
  operation_for(who, asks, what_number);
  assert(operations[op].number == what_number);
  operations[op].submitted = operations[op].submitted | (1 << who);
  if
  :: refused -> fail(op, Refused)
  :: else ->
     operations[op].waiting = operations[op].waiting | (1 << who);
     if
     :: operations[op].error != 0 || operations[op].unlike != asks -> fail(op, Unlike)
     :: else ->
        if
        :: operations[op].submitted == ALL -> conclude(op)
        :: else
        fi
     fi
  fi;
  forget_if_ended(op)
}

/* ---- a rank: Plans, Executor ---- */

/* Executor::give_up(): a member has left that does not start the operation. */
inline give_up(who, was_to_decline) {
  if
  :: was_to_decline
#ifdef MUTATE_ENDED_FAILS_UNASKED
  :: else -> learn_error(who)
#else
  :: else -> waits[who] = Declined
#endif
  fi
}

/* The next operation of the plan. */
inline start(who, which, to_decline) {
  next_sequence[CHANNEL(who, which)]++;
  if
  :: next_sequence[CHANNEL(who, which)] > end[CHANNEL(who, which)] ->
     give_up(who, to_decline)
  :: else ->
     assert(!in_flight[CHANNEL(who, which)]);
     in_flight[CHANNEL(who, which)] = true;
     declines[CHANNEL(who, which)] = to_decline;
     meeting = MEETING(who, which);
     assert(meetings[meeting].come == 0 || meetings[meeting].number == submissions[who]);
     meetings[meeting].number = submissions[who];
     meetings[meeting].come = meetings[meeting].come | (1 << who);
     meetings[meeting].declined = meetings[meeting].declined || to_decline
  fi
}

/* Plans::end() */
inline handle_member_left(who, leaver) {
  for (p : 1 .. PLANS) {
#ifdef MUTATE_DEPARTURES_FORGOTTEN
    if
    :: next_sequence[CHANNEL(who, p)] == 0
    :: else ->
#endif
    if
    :: progress[CHANNEL(leaver, p)] < end[CHANNEL(who, p)] ->
       end[CHANNEL(who, p)] = progress[CHANNEL(leaver, p)];
       if
       :: in_flight[CHANNEL(who, p)] && next_sequence[CHANNEL(who, p)] > end[CHANNEL(who, p)] ->
          in_flight[CHANNEL(who, p)] = false;
          give_up(who, declines[CHANNEL(who, p)]);
          declines[CHANNEL(who, p)] = false
       :: else
       fi
    :: else
    fi
#ifdef MUTATE_DEPARTURES_FORGOTTEN
    fi
#endif
  }
}

/* ---- a rank: ProcessSets ---- */

inline ask(who, asks, refused) {
  if
  :: refused -> learn_error(who)
  :: else -> waits[who] = ForLeader
  fi;
  if
  :: who == 0 -> add(0, asks, refused, submissions[0])
  :: else -> to_leader[who]!Request(asks, refused, submissions[who])
  fi
}

inline take(who, asks, refused) {
  if
  :: recurs[who] != 0 && !refused && asks == plan_unlike[recurs[who]] ->
     waits[who] = ForPlan;
     start(who, recurs[who], false)
  :: else ->
     if
     :: recurs[who] != 0 ->
#ifndef MUTATE_DECLINE_IS_NOT_SENT
        start(who, recurs[who], true);
#endif
#ifndef MUTATE_RECURS_AFTER_DECLINE
        recurs[who] = 0
#endif
     :: else
     fi;
     ask(who, asks, refused)
  fi
}

/* Of a plan that has ended, or of which a member has declined the operation. */
inline hand_in_again(who) {
  recurs[who] = 0;
  if
#ifndef MUTATE_ASKS_AFTER_LEAVE
  :: state[who] == Leaving -> learn_error(who)
#endif
  :: else ->
#ifdef MUTATE_DOES_NOT_ASK_AGAIN
     learn_error(who)
#else
     ask(who, asks_for[who], false)
#endif
  fi
}

/* Executor::finish() */
inline finish(who, which) {
  meeting = MEETING(who, which);
  in_flight[CHANNEL(who, which)] = false;
  if
#ifdef MUTATE_DECLINED_IS_DONE
  :: !declines[CHANNEL(who, which)] -> learn_told(who, Done)
#else
  :: !meetings[meeting].declined -> learn_told(who, Done)
#endif
  :: else ->
     /* close_declined(): this rank has nothing of the plan any more. */
     next_sequence[CHANNEL(who, which)] = 0;
     end[CHANNEL(who, which)] = FOREVER;
     if
     :: declines[CHANNEL(who, which)] -> declines[CHANNEL(who, which)] = false
     :: else -> waits[who] = Declined
     fi
  fi;
  meetings[meeting].gone = meetings[meeting].gone | (1 << who);
  if
  :: meetings[meeting].gone == ALL ->
     meetings[meeting].come = 0;
     meetings[meeting].gone = 0;
     meetings[meeting].declined = false;
     meetings[meeting].number = 0
  :: else
  fi
}

/* ProcessSets::execute() */
inline execute(who, what, which) {
  assert(waits[who] == ForLeader);
  if
  :: which != 0 -> recurs[who] = which
  :: else
  fi;
  learn_told(who, what)
}

inline answer() {
  for (i : 0 .. N - 1) {
    if
    :: reply[i] != 0 ->
       if
       :: i == 0 -> execute(0, reply[0], reply_plan[0])
       :: else -> from_leader[i]!Response(reply[i], reply_plan[i], 0)
       fi;
       reply[i] = 0;
       reply_plan[i] = 0
    :: else
    fi
  }
}

/* ---- leaving: Coordinator ---- */

inline handle_leave(who) {
  left = left | (1 << who);
  i = 0;
  do
  :: i < open ->
     fail(i, Left);
     operations[i].submitted = operations[i].submitted | (1 << who);
     op = open;
     forget_if_ended(i);
     i = i + 1 - (op - open)
  :: else -> break
  od;
  for (k : 1 .. N - 1) {
    if
#ifdef MUTATE_LEAVERS_NOT_TOLD
    :: k != who && !(left & (1 << k)) -> from_leader[k]!MemberLeft(who, 0, 0)
#else
    :: k != who -> from_leader[k]!MemberLeft(who, 0, 0)
#endif
    :: else
    fi
  }
  handle_member_left(0, who)
}

inline begin_leaving(who) {
  state[who] = Leaving;
  hasty[who] = false;
  recurs[who] = 0;
  for (p : 1 .. PLANS) {
    progress[CHANNEL(who, p)] = next_sequence[CHANNEL(who, p)]
  }
  if
  :: who == 0 -> handle_leave(0)
  :: else -> to_leader[who]!Leave(0, 0, 0)
  fi
}

inline release_members() {
  all_left[0] = true;
  for (k : 1 .. N - 1) { from_leader[k]!AllLeft(0, 0, 0) }
}

/* What is one way through only is a d_step. */
proctype Rank(byte me) {
  byte first, second, third;
  mtype:message message;
  byte source;
  do
  :: atomic {
#ifdef MUTATE_RUNS_WHILE_IN_USE
       state[me] == Running && (waits[me] == 0 || waits[me] == ForPlan) && submissions[me] < SUBMISSIONS ->
#else
       state[me] == Running && waits[me] == 0 && submissions[me] < SUBMISSIONS ->
#endif
       if
       :: first = false; second = false
       :: first = true; second = false /* unlike */
#if REFUSED
       :: first = false; second = true /* refused here */
#endif
       fi;
       d_step {
         submissions[me]++;
         asks_for[me] = first;
         if
         :: second -> all[submissions[me]].refused = true
         :: !second && first -> all[submissions[me]].unlike = true
         :: else -> all[submissions[me]].usual = true
         fi;
         take(me, first, second);
         first = 0; second = 0
       }
     }
  :: d_step {
       state[me] == Running && (waits[me] == 0 || hasty[me]) -> begin_leaving(me);
       p = 0
     }
  :: atomic {
       me == 0 && waits[0] != Declined && ANY_REQUEST ->
       if
       :: to_leader[1]?message(first, second, third) -> source = 1
#if N > 2
       :: to_leader[2]?message(first, second, third) -> source = 2
#endif
       fi;
       d_step {
         if
         :: message == Request -> add(source, first, second, third)
         :: message == Leave -> handle_leave(source)
         fi;
         first = 0; second = 0; third = 0; source = 0; message = 0
       }
     }
  :: d_step { me == 0 && waits[0] != Declined && ANY_REPLY -> answer(); i = 0 }
  :: d_step { me == 0 && left == ALL && !ANY_REPLY && !all_left[0] -> release_members(); k = 0 }
  :: d_step {
       me > 0 && waits[me] != Declined && len(from_leader[me]) > 0 ->
       from_leader[me]?message(first, second, third);
       if
       :: message == Response -> execute(me, first, second)
       :: message == MemberLeft -> handle_member_left(me, first)
       :: message == AllLeft -> all_left[me] = true
       fi;
       first = 0; second = 0; third = 0; message = 0
     }
  :: d_step {
       waits[me] != Declined && ANY_READY(me) ->
       for (p : 1 .. PLANS) {
         if
         :: next_sequence[CHANNEL(me, p)] > 0 && READY(me, p) -> finish(me, p)
         :: else
         fi
       }
       p = 0
     }
  :: d_step { waits[me] == Declined -> hand_in_again(me) }
  :: d_step {
       state[me] == Leaving && all_left[me] && !BUSY(me) && waits[me] != Declined ->
       state[me] = Ended;
       assert(waits[me] == 0)
     };
     break
  od
}

init {
  byte rank;
  atomic {
    for (rank : 0 .. N - 1) {
      hasty[rank] = (HASTY & (1 << rank)) != 0;
      run Rank(rank)
    }
  }
}

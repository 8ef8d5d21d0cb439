/* The leader's table of one process set: collectives/engine/negotiator.h, with the coordinators around it.
 *
 * Every rank submits one name up to SUBMISSIONS times, the next when the last is done; each submission fits,
 * does not match the others, or is refused on its own rank. Ranks leave at any time. Time may be up once.
 * (What a program submits while its name is in use is refused, and told in its turn.)
 *
 * As in the code: the messages, Operation with its fields, Whole, joins_whole(), take_apart(), operation_for(),
 * count(), fail(), conclude(), leave() and forget_ended().
 * Abstracted: a list is of one request, whose dtype, shape and so on are one bit, `unlike`; who of those that
 * a whole waits for came first; what was agreed on runs.
 *
 * What has no meaning any more is set to zero, so that states which differ in it alone are searched once.
 *
 * Checked: nobody waits for ever; each rank's n-th submission of the name belongs to the name's n-th
 * operation, and all ranks that submit an operation are told the same about it; "go ahead" comes after all
 * have asked for the same. MUTATE_* each break the protocol in one place: the check must find it.
 */
#ifndef N
#define N 2
#endif
#ifndef SUBMISSIONS
#define SUBMISSIONS 3
#endif
#define ALL ((1 << N) - 1)

mtype:state = { Running, Leaving, Ended };
mtype:message = { Request, Response, Leave, AllLeft };
mtype:outcome = { Done, Error };

typedef Operation {
  bool ended;     /* and forgotten */
  bool failed;    /* has an error */
  bool unlike;    /* what the first request asks for */
  byte submitted; /* members, as bits, here and below */
  byte waiting
}
/* In the order of their coming. */
Operation operations[SUBMISSIONS];
byte born;
/* The members that have asked for the list that waits as a whole; 0: no list. */
byte whole;
bool whole_unlike;
byte left;
bool time_is_up;

chan wire[N * N] = [SUBMISSIONS + 2] of { mtype:message, bool, bool };
#define TO(source, destination) wire[(source) * N + (destination)]

mtype:state state[N] = Running;
bool pending[N];
bool all_left[N];
byte submissions[N];
/* As far as the leader has heard. */
byte requests[N];
/* May leave while it waits. */
bool hasty[N];
/* What any rank has been told about each operation. */
mtype:outcome outcome[SUBMISSIONS];

#if N == 2
#define ANY_MESSAGE (len(TO(0, me)) + len(TO(1, me)) > 0)
#else
#define ANY_MESSAGE (len(TO(0, me)) + len(TO(1, me)) + len(TO(2, me)) > 0)
#endif

/* Have no meaning between two steps. */
hidden byte i, k, m, w, op, joined;

/* The rank's latest submission has come to this end. */
inline learn(who, what) {
  assert(outcome[submissions[who] - 1] == 0 || outcome[submissions[who] - 1] == what);
  outcome[submissions[who] - 1] = what;
  pending[who] = false;
  hasty[who] = hasty[who] && submissions[who] < SUBMISSIONS
}

/* ---- the leader ---- */

inline reply(member, error) {
  if
  :: member == 0 ->
     assert(pending[0]);
     learn(0, (error -> Error : Done))
  :: else -> TO(0, member)!Response(error, 0)
  fi
}

inline forget_if_ended(o) {
  if
  :: operations[o].submitted == ALL ->
     operations[o].ended = true;
     operations[o].failed = false;
     operations[o].unlike = false;
     operations[o].submitted = 0
  :: else
  fi
}

inline fail(o) {
  operations[o].failed = true;
  operations[o].unlike = false;
  for (m : 0 .. N - 1) {
    if
    :: operations[o].waiting & (1 << m) -> reply(m, 1)
    :: else
    fi
  }
  operations[o].waiting = 0;
#ifdef MUTATE_FORGET_FAILURE
  operations[o].ended = true
#endif
}

inline conclude(o) {
  for (m : 0 .. N - 1) { reply(m, 0) }
  operations[o].waiting = 0
}

inline operation_for(who, asks_for) {
  op = 0;
  do
  :: op < born && (operations[op].ended || operations[op].submitted & (1 << who)) -> op++
  :: else -> break
  od;
  if
  :: op == born ->
     born++;
     operations[op].submitted = left;
     operations[op].failed = left != 0;
     operations[op].unlike = asks_for && left == 0
  :: else
  fi
}

inline add_alone(who, asks_for, refused) {
  operation_for(who, asks_for);
  operations[op].submitted = operations[op].submitted | (1 << who);
  if
  :: refused -> fail(op)
  :: else ->
     operations[op].waiting = operations[op].waiting | (1 << who);
     if
     :: operations[op].failed || operations[op].unlike != asks_for -> fail(op)
     :: else ->
        if
        :: operations[op].submitted == ALL -> conclude(op)
        :: else
        fi
     fi
  fi;
  forget_if_ended(op)
}

inline joins_whole(who, asks_for, refused) {
  op = born;
  if
  :: whole == 0 ->
     joined = left == 0;
#ifndef MUTATE_WHOLE_BESIDE_OTHERS
     for (i : 0 .. SUBMISSIONS - 1) { joined = joined && (i >= born || operations[i].ended) }
#endif
  :: else -> joined = !(whole & (1 << who)) && whole_unlike == asks_for
  fi;
#ifndef MUTATE_WHOLE_OF_A_REFUSED
  joined = joined && !refused;
#endif
  if
  :: joined ->
     whole = whole | (1 << who);
     whole_unlike = asks_for;
     if
     :: whole == ALL ->
        whole = 0;
        whole_unlike = false;
        operations[born].ended = true;
        born++;
        for (m : 0 .. N - 1) { reply(m, 0) }
     :: else
     fi
  :: else
  fi
}

inline take_apart() {
  for (w : 0 .. N - 1) {
    if
    :: whole & (1 << w) -> add_alone(w, whole_unlike, 0)
    :: else
    fi
  }
  whole = 0;
  whole_unlike = false
}

inline add(who, asks_for, refused) {
  joins_whole(who, asks_for, refused);
  if
  :: !joined -> take_apart(); add_alone(who, asks_for, refused)
  :: else
  fi
}

inline handle_leave(who) {
#ifndef MUTATE_WHOLE_WAITS_FOR_LEAVER
  take_apart();
#endif
  left = left | (1 << who);
  for (i : 0 .. SUBMISSIONS - 1) {
    if
    :: i < born && !operations[i].ended ->
#ifndef MUTATE_LEAVER_IS_WAITED_FOR
       fail(i);
#endif
       operations[i].submitted = operations[i].submitted | (1 << who);
       forget_if_ended(i)
    :: else
    fi
  }
  if
  :: left == ALL ->
     all_left[0] = true;
     for (k : 1 .. N - 1) { TO(0, k)!AllLeft(0, 0) }
  :: else
  fi
}

inline time_up() {
  take_apart();
  op = 0;
  do
  :: op < born && (operations[op].ended || operations[op].failed) -> op++
  :: else -> break
  od;
  if
  :: op < born ->
     fail(op);
#ifdef MUTATE_TIME_IS_UP_FOR_ONE
     operations[op].failed = false
#endif
  :: else
  fi
}

/* ---- a rank ---- */

/* What is one way through only is a d_step. */
proctype Rank(byte me) {
  bool first, second;
  mtype:message message;
  byte source;
  do
  :: atomic {
       state[me] == Running && !pending[me] && submissions[me] < SUBMISSIONS ->
       if
       :: first = false; second = false
       :: first = true; second = false /* unlike */
       :: first = false; second = true /* refused here */
       fi;
       d_step {
         submissions[me]++;
         pending[me] = true;
         if
         :: second -> learn(me, Error)
         :: else
         fi;
         if
         :: me == 0 -> add(0, first, second); assert(op == submissions[0] - 1)
         :: else -> TO(me, 0)!Request(first, second)
         fi;
         first = false; second = false
       }
     }
  :: d_step {
       state[me] == Running && (!pending[me] || hasty[me]) ->
       state[me] = Leaving;
       hasty[me] = false;
       if
       :: me == 0 -> handle_leave(0)
       :: else -> TO(me, 0)!Leave(0, 0)
       fi
     }
  :: atomic {
       ANY_MESSAGE ->
       if
       :: TO(0, me)?message(first, second) -> source = 0
       :: TO(1, me)?message(first, second) -> source = 1
#if N > 2
       :: TO(2, me)?message(first, second) -> source = 2
#endif
       fi;
       d_step {
         if
         :: message == Request -> requests[source]++; add(source, first, second);
            assert(op == requests[source] - 1)
         :: message == Response -> assert(pending[me]); learn(me, (first -> Error : Done))
         :: message == Leave -> handle_leave(source)
         :: message == AllLeft -> all_left[me] = true
         fi;
         first = false; second = false; source = 0; message = 0
       }
     }
  :: d_step { me == 0 && !time_is_up -> time_is_up = true; time_up() }
  :: d_step { state[me] == Leaving && all_left[me] -> state[me] = Ended; assert(!pending[me]) }; break
  od
}

init {
  byte rank;
  atomic {
    for (rank : 0 .. N - 1) {
      /* All but the leader are alike. */
      if
      :: rank < 2 || hasty[rank - 1] -> hasty[rank] = true
      :: hasty[rank] = false
      fi;
      run Rank(rank)
    }
  }
}

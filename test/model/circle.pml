/*
 * Ranks that wait for each other (collectives/engine/circle.h): N (2 or 3) ranks, of which each submits up to ACTIONS
 * of OPERATIONS operations in any order, each once, waits for some of them, and goes on whenever it likes once all
 * have submitted it, or computes for ever. Whoever waits may say so, hears what others have said, asks and answers;
 * who computes does not listen. What is said arrives at any time.
 *
 * Whenever a circle is found, the ranks that are named must be ones that cannot go on, whatever the others do. When
 * nothing can move any more, there must be no such ranks, or they have been found.
 */

#ifndef OPERATIONS
#define OPERATIONS 3
#endif

/* What is so. Operations count from 1; 0 is none. */
byte waits[N];
bool submitted[N * OPERATIONS];
bool computes[N];
byte acted[N];
bool found;

#define SUBMITTED(rank, operation) submitted[(rank) * OPERATIONS + (operation) - 1]

/* What a rank has said of itself. */
byte epoch[N];
bool said[N];

/* On their way from a rank (first) to another: the latest report, question and answer; those before it are of no
 * use any more. */
byte report_epoch[N * N], report_operation[N * N];
byte question_number[N * N], question_epoch[N * N];
byte answer_number[N * N];
bool answer_waits[N * N], answer_lacks[N * N * OPERATIONS];

/* What a detector (first) knows of a rank: its report (epoch 0: none); the epoch with which it has asked it (0: not),
 * and whether it has confirmed it. */
byte known_epoch[N * N], known_operation[N * N];
byte inquiry[N], asked_epoch[N * N];
bool confirmed[N * N], lacks[N * N * OPERATIONS];

#define AT(a, b) ((a) * N + (b))
#define LACKS(list, a, b, operation) list[AT(a, b) * OPERATIONS + (operation) - 1]

/* Of each process; here so that the inlines can have them. */
#define LOCALS byte j, k, n, o; bool in_vain, changed; bool stuck[N]

/* Of the ranks in stuck[], those stay that can go on only if others of them do. */
inline reduce(may_lack) {
  n = 0;
  do
  :: n < N ->
    j = 0;
    do
    :: j < N ->
      if
      :: stuck[j] ->
        in_vain = false;
        k = 0;
        do
        :: k < N ->
          if
          :: k != j && stuck[k] && may_lack -> in_vain = true
          :: else
          fi;
          k++
        :: else -> break
        od;
        stuck[j] = in_vain
      :: else
      fi;
      j++
    :: else -> break
    od;
    n++
  :: else -> break
  od;
  j = 0; k = 0; n = 0; in_vain = false
}

inline forget_stuck() {
  j = 0;
  do
  :: j < N -> stuck[j] = false; j++
  :: else -> break
  od;
  j = 0
}

/* Those that really cannot go on, whatever free ranks do. */
inline find_truth() {
  j = 0;
  do
  :: j < N -> stuck[j] = waits[j] != 0; j++
  :: else -> break
  od;
  reduce(!SUBMITTED(k, waits[j]))
}

#define GUESS(i) (known_operation[AT(i, k)] != known_operation[AT(i, j)])
#define ANSWER(i) ((k == i && !SUBMITTED(k, known_operation[AT(i, j)])) || \
                   (k != i && LACKS(lacks, i, k, known_operation[AT(i, j)])))

/* Whether rank i is to ask, and it asks. */
inline ask(i) {
  j = 0;
  do
  :: j < N -> stuck[j] = known_epoch[AT(i, j)] != 0; j++
  :: else -> break
  od;
  reduce(GUESS(i));
  changed = false;
  j = 0;
  do
  :: j < N ->
    if
    :: stuck[j] && asked_epoch[AT(i, j)] != known_epoch[AT(i, j)] -> changed = true
    :: !stuck[j] && asked_epoch[AT(i, j)] != 0 -> changed = true
    :: else
    fi;
    j++
  :: else -> break
  od;
#ifdef MUTATE_ASKS_ONCE
  changed = changed && inquiry[i] == 0;
#endif
  if
  :: stuck[i] && changed ->
    inquiry[i]++;
    j = 0;
    do
    :: j < N ->
      confirmed[AT(i, j)] = false;
      asked_epoch[AT(i, j)] = (stuck[j] -> known_epoch[AT(i, j)] : 0);
      if
      :: stuck[j] && j != i ->
        question_number[AT(i, j)] = inquiry[i];
        question_epoch[AT(i, j)] = known_epoch[AT(i, j)]
      :: else
      fi;
      o = 1;
      do
      :: o <= OPERATIONS -> LACKS(lacks, i, j, o) = false; o++
      :: else -> break
      od;
      j++
    :: else -> break
    od;
    j = 0; o = 0
  :: else
  fi;
  changed = false;
  forget_stuck()
}

/* Rank i looks whether the circle is certain. */
inline find(i) {
  j = 0;
  do
  :: j < N ->
    stuck[j] = known_epoch[AT(i, j)] != 0 && asked_epoch[AT(i, j)] == known_epoch[AT(i, j)];
#ifndef MUTATE_NOBODY_CONFIRMS
    stuck[j] = stuck[j] && (j == i || confirmed[AT(i, j)]);
#endif
    j++
  :: else -> break
  od;
#if defined(MUTATE_NOBODY_CONFIRMS) || defined(MUTATE_SUBMISSIONS_ARE_GUESSED)
  reduce(GUESS(i));
#else
  reduce(ANSWER(i));
#endif
  o = 0;
  j = 0;
  do
  :: j < N -> o = o + (stuck[j] -> (1 << j) : 0); j++
  :: else -> break
  od;
  if
  :: o != 0 ->
    find_truth();
    j = 0;
    do
    :: j < N -> assert((o & (1 << j)) == 0 || stuck[j]); j++
    :: else -> break
    od;
    found = true
  :: else
  fi;
  o = 0;
  forget_stuck()
}

/* Its state is another one than it has said. */
inline change(i) {
#ifndef MUTATE_EPOCH_STAYS
  epoch[i]++;
#endif
  said[i] = false;
  known_epoch[AT(i, i)] = 0
}

inline act(i, operation) {
  SUBMITTED(i, operation) = true;
  acted[i]++;
  if
  :: waits[i] = operation
  :: skip
  fi;
  change(i)
}

inline say(i) {
  said[i] = true;
  known_epoch[AT(i, i)] = epoch[i];
  known_operation[AT(i, i)] = waits[i];
  j = 0;
  do
  :: j < i ->
#ifdef MUTATE_RANK_0_ALONE_HEARS
    if
    :: j > 0 -> break
    :: else
    fi;
#endif
    report_epoch[AT(i, j)] = epoch[i];
    report_operation[AT(i, j)] = waits[i];
    j++
  :: else -> break
  od;
  j = 0
}

inline hear_report(i, from) {
  known_epoch[AT(i, from)] = report_epoch[AT(from, i)];
  known_operation[AT(i, from)] = report_operation[AT(from, i)];
  report_epoch[AT(from, i)] = 0;
  report_operation[AT(from, i)] = 0
}

inline answer(i, from) {
  answer_number[AT(i, from)] = question_number[AT(from, i)];
  answer_waits[AT(i, from)] = question_epoch[AT(from, i)] == epoch[i];
  o = 1;
  do
  :: o <= OPERATIONS -> LACKS(answer_lacks, i, from, o) = !SUBMITTED(i, o); o++
  :: else -> break
  od;
  o = 0;
  question_number[AT(from, i)] = 0;
  question_epoch[AT(from, i)] = 0
}

inline hear_answer(i, from) {
  if
  :: answer_number[AT(from, i)] != inquiry[i]
  :: answer_number[AT(from, i)] == inquiry[i] && answer_waits[AT(from, i)] ->
    confirmed[AT(i, from)] = true;
    o = 1;
    do
    :: o <= OPERATIONS -> LACKS(lacks, i, from, o) = LACKS(answer_lacks, from, i, o); o++
    :: else -> break
    od;
    o = 0
  :: answer_number[AT(from, i)] == inquiry[i] && !answer_waits[AT(from, i)] ->
    if
    :: known_epoch[AT(i, from)] == asked_epoch[AT(i, from)] -> known_epoch[AT(i, from)] = 0
    :: else
    fi
  fi;
  answer_number[AT(from, i)] = 0;
  answer_waits[AT(from, i)] = false;
  o = 1;
  do
  :: o <= OPERATIONS -> LACKS(answer_lacks, from, i, o) = false; o++
  :: else -> break
  od;
  o = 0
}

#define ALL_HAVE(operation) \
  (SUBMITTED(0, operation) && SUBMITTED(1, operation) && (N == 2 || SUBMITTED(N - 1, operation)))

proctype Rank(byte i) {
  LOCALS;
  byte from, operation;
  epoch[i] = 1;
end:
  do
  :: found -> break
  /* free */
  :: atomic { !found && waits[i] == 0 && !computes[i] ->
      if
      :: computes[i] = true
      :: acted[i] < ACTIONS ->
        select(operation : 1 .. OPERATIONS);
        if
        :: !SUBMITTED(i, operation) -> act(i, operation)
        :: else
        fi;
        operation = 0
      fi
    }
  /* waits */
  :: atomic { !found && waits[i] != 0 && ALL_HAVE(waits[i]) -> waits[i] = 0; change(i) }
  :: atomic { !found && waits[i] != 0 && !said[i] -> say(i); ask(i); find(i) }
  :: atomic { !found && waits[i] != 0 && (report_epoch[AT(0, i)] != 0 || report_epoch[AT(1, i)] != 0 ||
                                report_epoch[AT(N - 1, i)] != 0) ->
      select(from : 0 .. N - 1);
      if
      :: report_epoch[AT(from, i)] != 0 -> hear_report(i, from); ask(i); find(i)
      :: else
      fi;
      from = 0
    }
  :: atomic { !found && waits[i] != 0 && (question_number[AT(0, i)] != 0 || question_number[AT(1, i)] != 0 ||
                                question_number[AT(N - 1, i)] != 0) ->
      select(from : 0 .. N - 1);
      if
      :: question_number[AT(from, i)] != 0 -> answer(i, from)
      :: else
      fi;
      from = 0
    }
  :: atomic { !found && waits[i] != 0 && (answer_number[AT(0, i)] != 0 || answer_number[AT(1, i)] != 0 ||
                                answer_number[AT(N - 1, i)] != 0) ->
      select(from : 0 .. N - 1);
      if
      :: answer_number[AT(from, i)] != 0 -> hear_answer(i, from); ask(i); find(i)
      :: else
      fi;
      from = 0
    }
  od
}

active proctype Judge() {
  LOCALS;
  /* Nothing can move. */
  timeout;
  atomic {
    find_truth();
    j = 0;
    do
    :: j < N -> assert(found || !stuck[j]); j++
    :: else -> break
    od
  }
}

init {
  byte i;
  atomic {
    for (i : 0 .. N - 1) { run Rank(i) }
  }
}

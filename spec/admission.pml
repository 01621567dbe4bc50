/*
 * Admission to a budget with children, as contracts/core/budget.md promises it.
 *
 * One lock makes every operation atomic, so each operation here is one atomic step. Four callers ask for one or two
 * units each, on the root or on one of two children; which of them, and how much, is open. A caller may be cancelled
 * while it waits, with a grant in its hand or after dispatch; it may settle for less than its bound, or once for more.
 *
 * CLAIM=n checks claim n alone, 0 all of them. MUTATION=n breaks the rule that claim n depends on: spin must then
 * find a violation. The numbers are those of the BUDGET ids in the contract.
 */

#ifndef CLAIM
#define CLAIM 0
#endif
#ifndef MUTATION
#define MUTATION 0
#endif
#ifndef CALLERS
#define CALLERS 3
#endif

#define CHECK(n, holds) if :: (CLAIM == 0 || CLAIM == n) -> assert(holds) :: else fi

#define ROOT 0
#define TRACKERS 3

mtype = { idle, waiting, granted, held_, sent, done, refused };

byte limit[TRACKERS];
byte spent[TRACKERS], held[TRACKERS], excess[TRACKERS];
bool blocked[TRACKERS];

mtype state[CALLERS];
byte tracker[CALLERS], need[CALLERS], arrival[CALLERS];
/* What the ledger has of a caller: its amount, how many entries, and whether it is an open presumption. */
byte entry[CALLERS], entries[CALLERS];
bool presumed[CALLERS];
byte arrivals = 0;
bool overrun_used = false;

/* Scratch of the atomic steps; reset, so that it adds no states. */
byte i, j, k, sum;
bool overtaken, ok;

#define short_of(c, t) (spent[t] + held[t] + need[c] > limit[t])
#define fits(c)        (!short_of(c, tracker[c]) && !short_of(c, ROOT))
#define hopeless(c)    (spent[tracker[c]] + need[c] > limit[tracker[c]] || spent[ROOT] + need[c] > limit[ROOT])
#define breached(t)    (spent[t] > limit[t])
#define open(c)        (state[c] == granted || state[c] == held_ || state[c] == sent)
#define on_path(c, t)  (t == ROOT || tracker[c] == t)

inline hold(c) {
    held[ROOT] = held[ROOT] + need[c];
    if :: tracker[c] != ROOT -> held[tracker[c]] = held[tracker[c]] + need[c] :: else fi
}

inline free(c) {
    held[ROOT] = held[ROOT] - need[c];
    if :: tracker[c] != ROOT -> held[tracker[c]] = held[tracker[c]] - need[c] :: else fi
}

inline book(c, amount) {
    free(c);
    if
    :: tracker[c] != ROOT -> spent[tracker[c]] = spent[tracker[c]] + amount
    :: else
    fi;
    if
    :: MUTATION == 4 && tracker[c] != ROOT      /* books on the child alone */
    :: else -> spent[ROOT] = spent[ROOT] + amount
    fi;
    entry[c] = amount;
    entries[c]++
}

/* Whether an earlier waiter is short of an account that `c` needs. */
inline look_for_earlier(c) {
    overtaken = false;
    for (j : 0 .. CALLERS - 1) {
        if
        :: state[j] == waiting && arrival[j] < arrival[c] ->
            if
            :: short_of(j, ROOT) || (tracker[c] == tracker[j] && short_of(j, tracker[j])) -> overtaken = true
            :: else
            fi
        :: else
        fi
    };
    j = 0
}

inline grant(c) {
    look_for_earlier(c);
    CHECK(5, !overtaken);
    overtaken = false;
    hold(c);
    state[c] = granted
}

/* Looks at all waiters in order of arrival: grants, refuses, or blocks what a waiter is short of. */
inline scan() {
    for (k : 0 .. TRACKERS - 1) { blocked[k] = false };
    k = 0;
    for (i : 1 .. CALLERS) {
        for (k : 0 .. CALLERS - 1) {
            if
            :: state[k] == waiting && arrival[k] == i ->
                if
                :: hopeless(k) -> state[k] = refused
                :: !hopeless(k) && fits(k) &&
                   ((!blocked[ROOT] && !blocked[tracker[k]]) || MUTATION == 5) -> grant(k)
                :: else ->
                    if :: short_of(k, ROOT) -> blocked[ROOT] = true :: else fi;
                    if :: short_of(k, tracker[k]) -> blocked[tracker[k]] = true :: else fi
                fi
            :: else
            fi
        };
        k = 0
    };
    i = 0;
    for (k : 0 .. TRACKERS - 1) { blocked[k] = false };
    k = 0
}

inline admit(c) {
    ok = true;
    for (i : 0 .. CALLERS - 1) {
        if :: state[i] == waiting -> ok = false :: else fi
    };
    i = 0;
    if
    :: hopeless(c) -> state[c] = refused
    :: else ->
        state[c] = waiting;
        if
        :: MUTATION == 1 && ok && !short_of(c, tracker[c]) -> ok = true; hold(c); state[c] = granted
        :: else -> scan()
        fi
    fi;
    ok = false;
    books_are_right()
}

/* Checked after every operation. */
inline books_are_right() {
    for (k : 0 .. TRACKERS - 1) {
        CHECK(1, spent[k] + held[k] <= limit[k] + excess[k]);
        sum = 0;
        for (i : 0 .. CALLERS - 1) {
            if :: open(i) && on_path(i, k) -> sum = sum + need[i] :: else fi
        };
        CHECK(6, held[k] == sum);
        sum = 0;
        for (i : 0 .. CALLERS - 1) {
            if :: on_path(i, k) -> sum = sum + entry[i] :: else fi
        };
        CHECK(4, spent[k] == sum)
    };
    sum = 0;
    k = 0;
    for (i : 0 .. CALLERS - 1) {
        CHECK(3, entries[i] <= 1);
        if
        :: state[i] == waiting ->
            look_for_earlier(i);
            CHECK(2, overtaken || !fits(i));
            overtaken = false
        :: else
        fi
    };
    i = 0
}

inline end(c) {
    if
    :: MUTATION == 2
    :: else -> scan()
    fi;
    books_are_right()
}

/* An amount above the hold is booked in full; the excess is what the cap may be passed by. */
inline settle(c, amount) {
    if
    :: amount > need[c] ->
        excess[ROOT] = excess[ROOT] + amount - need[c];
        if :: tracker[c] != ROOT -> excess[tracker[c]] = excess[tracker[c]] + amount - need[c] :: else fi
    :: else
    fi;
    book(c, amount);
    state[c] = done;
    end(c)
}

proctype Caller(byte c) {
    atomic { arrivals++; arrival[c] = arrivals; admit(c) };
wait:
    do
    :: atomic { state[c] == granted -> state[c] = held_; break }
    :: atomic { state[c] == refused -> goto out }
    :: atomic {                                 /* cancelled while it waits, or with an untaken grant */
        (state[c] == waiting || state[c] == granted) ->
            if
            :: state[c] == granted && MUTATION != 6 -> free(c)
            :: else
            fi;
            state[c] = done;
            end(c);
            goto out
       }
    od;
    if
    :: atomic { state[c] = done; free(c); end(c); goto out }          /* released: nothing was sent */
    :: atomic {                                                       /* dispatch */
        true ->
        if
        :: (breached(ROOT) || breached(tracker[c])) && MUTATION != 10 ->
            free(c);
            state[c] = idle;
            admit(c);
            goto wait
        :: else ->
            CHECK(10, !breached(ROOT) && !breached(tracker[c]));
            state[c] = sent
        fi
       }
    fi;
    if
    :: atomic { true -> settle(c, 0) }
    :: atomic { true -> settle(c, need[c]) }
    :: atomic { !overrun_used -> overrun_used = true; settle(c, need[c] + 2) }
    :: atomic {                                                       /* the outcome is not known */
        book(c, need[c]);
        presumed[c] = true;
        state[c] = done;
        end(c)
       };
       atomic {                                                       /* a correction, once */
        if
        :: presumed[c] ->
            presumed[c] = false;
            spent[ROOT] = spent[ROOT] - entry[c];
            if :: tracker[c] != ROOT -> spent[tracker[c]] = spent[tracker[c]] - entry[c] :: else fi;
            entry[c] = 0;
            end(c)
        :: else
        fi
       }
    fi;
    atomic {
        if
        :: MUTATION == 3 -> hold(c); book(c, 0)                       /* ends its hold a second time */
        :: else
        fi;
        books_are_right()
    };
out:
    skip
}

init {
    atomic {
        limit[ROOT] = 3; limit[1] = 2; limit[2] = 2;
        for (i : 0 .. CALLERS - 1) {
            state[i] = idle;
            /* Callers are alike, so only one order of their choices is looked at. */
            if :: tracker[i] = 0 :: tracker[i] = 1 :: tracker[i] = 2 fi;
            if :: need[i] = 1 :: need[i] = 2 fi;
            if
            :: i > 0 && 2 * tracker[i - 1] + need[i - 1] > 2 * tracker[i] + need[i] -> goto end_other_order
            :: else
            fi
        };
        i = 0;
        for (j : 0 .. CALLERS - 1) { run Caller(j) };
        j = 0
    };
    /* A caller that waits for ever is an invalid end state, which spin reports. */
    (_nr_pr == 1);
    CHECK(3, held[0] == 0 && held[1] == 0 && held[2] == 0);
end_other_order:
    (false)
}

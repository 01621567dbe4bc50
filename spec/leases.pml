/*
 * Leases with fencing and late ends, as contracts/functional/stores.md promises them.
 *
 * Two processes share a budget of two units in a store; one makes a call of at most one unit, the other of at most two. A process asks the
 * store step by step (reserve, dispatch, settle). A reply may be lost after its step was applied; the process then
 * sends the step again under the same id. It may stall or die at any point, and its lease may be over at any moment,
 * which it does not know: then the store ends its hold. Whoever reads the ledger may correct what was presumed.
 *
 * CLAIM=n checks claim n alone, 0 all of them. MUTATION=n breaks the rule that claim n depends on: spin must then
 * find a violation. The numbers are those of the STORE ids in the contract.
 */

#ifndef CLAIM
#define CLAIM 0
#endif
#ifndef MUTATION
#define MUTATION 0
#endif

#define CHECK(n, holds) if :: (CLAIM == 0 || CLAIM == n) -> assert(holds) :: else fi

#define PROCESSES 2
#define LIMIT 2
#define BOUND(p) (p + 1)

mtype = { none, reserved, dispatched, released_by_store, presumed_by_store, ended };

/* The store. */
byte spent = 0, held = 0;
mtype hold_[PROCESSES];
byte booked[PROCESSES];
bool open_presumption[PROCESSES], corrected_by_other[PROCESSES];
bool settled[PROCESSES];

/* The provider, and what a process knows. */
byte billed[PROCESSES];
bool was_sent[PROCESSES], dead[PROCESSES], finished[PROCESSES];

#define is_open(p) (hold_[p] == reserved || hold_[p] == dispatched)

inline step_is_right() {
    CHECK(2, spent + held <= LIMIT);
    CHECK(3, spent + held >= billed[0] + billed[1])
}

inline apply_reserve(p, granted) {
    if
    :: hold_[p] == reserved && MUTATION != 10 -> granted = true         /* the step was applied before: once */
    :: hold_[p] != none && hold_[p] != reserved -> granted = false      /* the lease was over meanwhile */
    :: else ->
        if
        :: spent + held + BOUND(p) <= LIMIT -> held = held + BOUND(p); hold_[p] = reserved; granted = true
        :: else -> granted = false
        fi
    fi;
    CHECK(10, held == BOUND(0) * is_open(0) + BOUND(1) * is_open(1));
    step_is_right()
}

/* The fence: a hold that the store has ended is not dispatched. */
inline apply_dispatch(p, granted) {
    if
    :: hold_[p] == reserved || hold_[p] == dispatched -> hold_[p] = dispatched; granted = true
    :: else -> granted = (MUTATION == 3)
    fi;
    step_is_right()
}

inline apply_settle(p, amount) {
    if
    :: settled[p] && MUTATION != 4 -> skip                              /* the step was applied before: once */
    :: else ->
        if
        :: hold_[p] == dispatched ->
            held = held - BOUND(p); spent = spent + amount; booked[p] = amount; hold_[p] = ended
        :: hold_[p] == presumed_by_store && (open_presumption[p] || MUTATION == 8) ->
            spent = spent - BOUND(p) + amount; booked[p] = booked[p] - BOUND(p) + amount; open_presumption[p] = false
        :: hold_[p] == released_by_store ->                             /* never sent, unless the fence failed */
            spent = spent + amount; booked[p] = booked[p] + amount
        :: else ->
            if
            :: MUTATION == 4 -> spent = spent + amount; booked[p] = booked[p] + amount
            :: else
            fi
        fi;
        settled[p] = true
    fi;
    step_is_right()
}

proctype Process(byte p) {
    bool granted = false;
    byte amount = 0;

    do                                                                  /* reserve, and again while replies are lost */
    :: atomic { true -> apply_reserve(p, granted); break }
    :: atomic { true -> apply_reserve(p, granted); granted = false }
    :: goto gone
    od;
    if :: !granted -> goto out :: else fi;

    do                                                                  /* dispatch likewise */
    :: atomic { true -> apply_dispatch(p, granted); break }
    :: atomic { true -> apply_dispatch(p, granted); granted = false }
    :: goto gone
    od;
    if :: !granted -> goto out :: else fi;

    atomic {
        CHECK(4, hold_[p] == dispatched || hold_[p] == presumed_by_store);
        was_sent[p] = true;
        if :: amount = 0 :: amount = 1 :: amount = BOUND(p) fi;
        billed[p] = amount;
        step_is_right()
    };
    if :: goto gone :: skip fi;

    do                                                                  /* settle, perhaps late */
    :: atomic { true -> apply_settle(p, amount); break }
    :: atomic { true -> apply_settle(p, amount) }
    :: goto gone
    od;
    atomic { CHECK(4, booked[p] == billed[p]) };
    goto out;
gone:
    dead[p] = true;
out:
    finished[p] = true
}

/* Ends leases at any moment; those of processes that are gone are over in the end. */
proctype Clock() {
    byte p;
    do
    :: atomic {
        true ->
        if :: p = 0 :: p = 1 fi;
        if
        :: hold_[p] == reserved -> held = held - BOUND(p); hold_[p] = released_by_store
        :: hold_[p] == dispatched && MUTATION == 2 -> held = held - BOUND(p); hold_[p] = released_by_store
        :: hold_[p] == dispatched && MUTATION != 2 ->
            held = held - BOUND(p); spent = spent + BOUND(p); booked[p] = BOUND(p);
            open_presumption[p] = true; hold_[p] = presumed_by_store
        :: else
        fi;
        step_is_right();
        p = 0
       }
    :: finished[0] && finished[1] && held == 0 -> break
    od
}

/* Somebody who has read the provider's bill corrects an open presumption of a call that is sent, or never will be. */
proctype Reader() {
    byte p;
    if :: p = 0 :: p = 1 fi;
    if
    :: atomic {
        open_presumption[p] && (was_sent[p] || dead[p]) ->
        spent = spent - booked[p] + billed[p]; booked[p] = billed[p];
        open_presumption[p] = false; corrected_by_other[p] = true;
        step_is_right()
       }
    :: finished[0] && finished[1]
    fi
}

init {
    atomic {
        hold_[0] = none; hold_[1] = none;
        run Process(0); run Process(1); run Clock(); run Reader()
    };
    (_nr_pr == 1);
    CHECK(3, held == 0 && spent >= billed[0] + billed[1]);
    CHECK(8, booked[0] + booked[1] == spent);
    CHECK(8, !corrected_by_other[0] || booked[0] == billed[0]);
    CHECK(8, !corrected_by_other[1] || booked[1] == billed[1])
}

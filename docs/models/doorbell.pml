/*
 * doorbell.pml - the doorbell, the topics and the subscription protocol, for
 * Spin. tests/shell/models.sh checks it as it is (no error) and then
 * with each step taken out by a -D (an error each time).
 *
 * Two writers commit and ring, the state server reads the log and publishes, a
 * subscriber watches; the server is killed at any point and started again,
 * writers may die between commit and bell. There are no timeouts in the model:
 * whatever it proves holds without them.
 *
 * With -DBELL the subscriber also has a bell of its own (core/slots.h): a flag,
 * and a FIFO of which only matters whether there is a byte in it. The server
 * then tells of a change by the message alone or by the bell alone, as it
 * likes: either has to be enough. (In truth a message follows the bell, sooner
 * or later; so what a bell without that cannot lose is not lost.) The slot's
 * last owner left it in any state, and may be rung once more by a server that
 * is killed half way. Writers commit one after the other then, which is no less
 * to the bell, and four times less to search.
 *
 * A writer may ring the watcher's bell by itself, and let the server sleep, or
 * leave it to the server; so it is when there are others, or it has not got the
 * bell open. It rings under the lock: the next writer gets that of a dead one,
 * and takes the flag back. Until then it is set for no byte, and a server that
 * has told of a change by the bell alone then sends the message; also when it
 * was taken back, which is not the watcher's answer.
 *
 * Who commits looks at the filter before it lets go of the lock, and leaves word
 * for the server: first, if it is of interest, that it is (`called`), then that
 * it has looked (`looked`). A pass reads the log only for what was called, and
 * for what nobody looked at.
 *
 * With -DWRITES the server is a writer, too (it deletes keys whose lease is
 * over): once, woken by something else than the bell, it commits and looks at
 * the filter as writers do, and rings nobody. One writer is enough beside it.
 *
 * PROPERTY. When nothing moves any more, the subscriber is confirmed and has
 * read the log at least up to `due`: the newest revision whose writer lived to
 * look at the bell.
 *
 * MEMORY. Spin's memory is sequentially consistent, the machine's is not. A
 * store of the server (asleep, interest) or a commit first sits in a buffer and
 * becomes visible at any later time, in any order, at the latest at the fence
 * of its process. Writers see each other's commits (they share a lock).
 *
 * LIBZMQ. A subscription travels through a queue; libzmq takes it in (into what
 * it sends to, and into the queue of reports that XPUB hands out) when a
 * receive finds nothing more to hand out, and now and then while it sends. The
 * poll wakes up for what arrives (an edge), not for what has been taken in:
 * a report that was taken in while sending rings nobody. A full queue drops
 * the message. After a reconnect the subscriptions are sent again in byte
 * order: the topic first, the sync topic (0xFF) last.
 *
 * What can be taken out or done wrong:
 *
 *   NO_WRITER_FENCE   writer: commit, then look at the filter without a fence
 *   NO_SLEEP_FENCE    server: asleep = 1, then read the log without a fence
 *   NO_RECHECK        server: sleep without the pass behind the fence
 *   NO_SYNC_FENCE     server: answer the sync topic without a fence
 *   ANSWER_EARLY      server: answer it before interest is set
 *   NO_DRY            server: sleep without reading XPUB dry
 *   NO_DRY_AGAIN      server: nor reading it again after the answers
 *   DRAIN_LATE        server: drain the bell behind the last pass
 *   WRITER_CLEARS     writer: clear asleep, then ring
 *   LOOKED_FIRST      writer: say that it has looked, then what it saw
 *   CALLS_FIRST       server: read the calls, then how far was looked
 *   TRUST_LOOKED      server: do not read what was not looked at
 *   NO_READ_ON_SYNC   subscriber: read the log at news only, not at the answer
 *   READ_FIRST        subscriber: read the log, then drain the socket
 *   NO_RETRY          subscriber: no new sync topic when an answer was dropped
 *   SYNC_FIRST        libzmq: the sync topic sorts before the topic
 *
 * ... and of the bell (a ringer's fence before it looks at the flag is for
 * machines that reorder loads; this one does not):
 *
 *   BYTE_FIRST        server: write the byte, then set the flag
 *   LOST_FLAG         neither server (new) nor subscriber (turn) take it back
 *   FLAG_BEFORE_FIFO  subscriber: take the flag back, then read the FIFO dry
 *   LOG_BEFORE_FLAG   subscriber: read the log, then take the flag back
 *   NO_FLAG_FENCE     subscriber: no fence between the two
 *   NO_FLAG           subscriber: never take it back for the bell
 *   WANT_LATE         subscriber: set the slot's bit when confirmed
 *   NO_HUSH           writer: leave the flags that a dead one has set
 *   NO_LATE           server: no message for a flag that stays set
 *   NO_LATE_AGAIN     server: nor for one that a writer has taken back
 *
 * ... and of the server that writes:
 *
 *   WRITE_LATE        server: commit behind the pass, before it sleeps
 */

#ifdef BELL
#ifndef COMMITS
#define COMMITS 2
#endif
#define WRITERS 1
#endif
#ifdef WRITES
#define WRITERS 1
#endif
#ifndef COMMITS
#define COMMITS 1 /* of each writer */
#endif
#ifndef WRITERS
#define WRITERS 2
#endif
#ifndef KILLS
#define KILLS 1
#endif
#define NONE 2   /* an empty place in a store buffer */
#define QUEUE 2  /* the high-water mark of the subscriber's queue */
#define TOPIC 3  /* through the queues go this topic ... */
                 /* ... and 1 or 2: a sync topic and the next one */
#define max(a, b) ((a) > (b) -> (a) : (b))

/* ---- shared memory ---- */
byte committed; /* the log in the writers' eyes: under their lock */
byte visible;   /* ... in everybody's */
bit lock;
byte called;    /* the newest commit that is of interest, or may be */
byte looked;    /* the newest commit that was compared with the filter */
bit asleep, interest;
byte asleep_buffer = NONE, interest_buffer = NONE;
#ifdef NO_FLAG_FENCE
byte rung_buffer = NONE;
#endif
bit bell;
byte due; /* what must be seen in the end */

/* ---- the watcher's own bell ---- */
bit rung, chime; /* the flag in its slot; there is a byte in its FIFO */
bit orphan;      /* who set the flag was killed before the byte */
bit hushed;      /* the next writer has taken back what a dead one set */
bit wanted;      /* the topic's bit in its slot */

/* ---- the sockets ---- */
chan subs = [4] of { byte };    /* subscriber -> libzmq at the server */
chan reports = [4] of { byte }; /* taken in, not yet read from XPUB */
chan news = [QUEUE] of { byte }; /* server -> subscriber */
bit edge;                       /* ZMQ_FD of the XPUB socket */
bit takes_topic;                /* libzmq: the connection subscribed to it */
byte takes_sync;                /* ... and to this sync topic, 0: none */
bit up, connected;

/* ---- the subscriber ---- */
byte seen;
byte sync;     /* its sync topic; 0: not registered yet */
bit confirmed;
bit dropped;   /* the answer to it was dropped: its timer will run out */

bit die;       /* the server is to be killed */
#ifdef WRITES
bit wrote;     /* the server has made its commit */
bit holds;     /* ... and has the lock, which its death gives back */
#endif

/* Stores become visible at some time. */
active proctype Memory()
{
end:
    do
    :: d_step { visible < committed -> visible++ }
    :: d_step { asleep_buffer != NONE ->
                asleep = asleep_buffer; asleep_buffer = NONE }
    :: d_step { interest_buffer != NONE ->
                interest = interest_buffer; interest_buffer = NONE }
#ifdef NO_FLAG_FENCE
    :: d_step { rung_buffer != NONE ->
                rung = rung_buffer; orphan = 0; rung_buffer = NONE }
#endif
    od
}

#ifdef BELL
/* The flag is set no more. */
inline take_back()
{
    d_step { rung = 0; orphan = 0 }
}

/* Ring the watcher. */
inline ring()
{
#ifdef BYTE_FIRST
    if
    :: wanted && !rung -> chime = 1; rung = 1
    :: else
    fi
#else
    d_step {
        rings = wanted && !rung;
        rung = wanted || rung
    }
    if
    :: rings -> rings = 0; chime = 1
    :: else
    fi
#endif
}
#endif

/* ------------------------------------------------------------ writers -- */

/* Killed, with the lock or behind it. The next commit is another process's, of
 * which one is enough for the bell, and a second writer for the rest. */
#ifdef BELL
#define killed goto next
#else
#define killed break
#endif

active [WRITERS] proctype Writer()
{
    byte n, mine;
    bit saw, rings, gap, dead;

next:
    do
    :: n < COMMITS ->
        d_step { !lock -> lock = 1 }
#ifdef BELL
        if
        :: dead -> dead = 0;
#ifndef NO_HUSH
            d_step { hushed = 1; rung = 0; orphan = 0 }
#endif
        :: else
        fi;
#endif
        d_step {
            n++; committed++; mine = committed;
#ifndef NO_WRITER_FENCE
            visible = committed
#endif
        }
        if
        :: skip
        :: d_step { lock = 0; dead = 1 };
           killed /* before it looked */
        fi;
        saw = interest;
#ifdef LOOKED_FIRST
        gap = looked + 1 != mine; looked = mine;
        if
        :: saw || gap -> called = mine
        :: else
        fi;
#else
        if
        :: saw || looked + 1 != mine -> called = mine
        :: else
        fi;
#endif
#ifdef BELL
        if
        :: saw && wanted -> /* it rings, and lets the server sleep */
            looked = mine;
            if
            :: ring();
               d_step { lock = 0; due = max(due, mine) }
            :: d_step { !rung -> rung = 1; orphan = 1; lock = 0; dead = 1 };
               killed /* between the flag and the byte */
            fi;
            goto next
        :: saw /* there are others, or it has not got the bell open */
        :: else
        fi;
#endif
        rings = saw && asleep;
        d_step { looked = mine; lock = 0 }
        if
        :: rings ->
#ifdef WRITER_CLEARS
            asleep = 0;
#endif
            if
            :: d_step { bell = 1; due = max(due, mine); rings = 0 }
            :: rings = 0; killed /* before it rang */
            fi
        :: else -> due = max(due, mine)
        fi
    :: else -> break
    od
}

/* ------------------------------------------------------------- server -- */

inline server_fence()
{
    d_step {
        if
        :: asleep_buffer != NONE -> asleep = asleep_buffer
        :: else
        fi;
        asleep_buffer = NONE;
        if
        :: interest_buffer != NONE -> interest = interest_buffer
        :: else
        fi;
        interest_buffer = NONE
    }
}

/* libzmq takes in what has arrived. */
inline take_in()
{
    edge = 0;
    do
    :: len(subs) > 0 ->
        subs?message;
        if
        :: message == TOPIC -> takes_topic = 1
        :: else -> takes_sync = message
        fi;
        reports!message
    :: else -> break
    od;
    message = 0
}

/* Send: libzmq takes in subscriptions on the way, or does not. */
inline send(what)
{
    atomic {
        if
        :: len(subs) > 0 -> take_in()
        :: skip
        fi;
        if
        :: what == TOPIC && takes_topic && len(news) < QUEUE -> news!TOPIC
        :: what != TOPIC && takes_sync == what && len(news) < QUEUE ->
            news!what
        :: else ->
            if
            :: what == sync && takes_sync == what -> dropped = 1
            :: else
            fi
        fi
    }
}

/* Put all reports that libzmq has handed out in the set and the filter. */
inline take_reports()
{
    do
    :: len(reports) > 0 ->
        reports?report;
        if
        :: report == TOPIC -> watched = 1; interest_buffer = 1
        :: else -> answer = report
        fi
    :: else -> break
    od;
    report = 0
}

/* Receive until there is nothing; then answer; again if there were answers:
 * sending them may have taken in more. */
inline read_dry()
{
    do
    :: atomic {
        len(subs) > 0 || len(reports) > 0 ->
#ifdef ANSWER_EARLY
        take_in();
        do
        :: len(reports) > 0 ->
            reports?report;
            if
            :: report == TOPIC -> early = 1
            :: else -> send(report)
            fi
        :: else -> break
        od;
        report = 0 }
        if
        :: early -> early = 0; watched = 1; interest_buffer = 1
        :: else
        fi
#else
        take_reports(); take_in(); take_reports() }
#endif
    :: len(subs) == 0 && len(reports) == 0 ->
        if
        :: answer != 0 ->
#ifndef NO_SYNC_FENCE
            server_fence();
#endif
            send(answer);
            answer = 0
#ifdef NO_DRY_AGAIN
            ; break
#endif
        :: else -> break
        fi
    od
}

/* Read the log; tell of the topic once if it is in. */
inline pass()
{
#ifdef CALLS_FIRST
    calls = called;
    looks = looked;
#else
    looks = looked;
    calls = called;
#endif
    d_step {
        found = watched && (calls > published ||
#ifdef TRUST_LOOKED
                            0);
#else
                            visible > max(looks, published));
#endif
        published = visible; looks = 0; calls = 0
    }
    if
    :: found ->
#ifdef BELL
        if
        :: ring(); late = 1
        :: read_dry(); send(TOPIC)
        fi
#else
        read_dry(); send(TOPIC)
#endif
    :: else
    fi
}

#ifdef WRITES
/* The server's own commit, once. */
inline write()
{
    d_step { !lock && !wrote -> lock = 1; holds = 1; wrote = 1 }
    d_step { committed++; mine = committed }
    server_fence();
    d_step { visible = committed }
    saw = interest;
    if
    :: saw || looked + 1 != mine -> called = mine
    :: else
    fi;
    d_step {
        looked = mine; lock = 0; holds = 0; due = max(due, mine);
        mine = 0; saw = 0
    }
}
#endif

active proctype Server()
{
#ifdef WRITES
    byte mine;
    bit saw;
#endif
    byte published, report, answer, message, looks, calls;
    bit found, watched, early, rings, late;

start:
    {
        /* the filter to zero first, then start at the head */
        d_step { interest = 0; asleep = 0 }
#ifdef BELL
#ifndef LOST_FLAG
        take_back();
#endif
        if /* for a watcher that had the slot before */
        :: d_step { !rung && !sync -> rung = 1 }
           chime = 1
        :: skip
        fi;
#endif
        d_step { published = visible; up = 1 }
        do
        :: true ->
            asleep_buffer = 1;
#ifndef NO_SLEEP_FENCE
            server_fence();
#endif
#ifndef NO_RECHECK
            pass();
#endif
#ifndef NO_DRY
            read_dry();
#endif
#ifdef DRAIN_LATE
            bell = 0;
#endif
#ifdef WRITE_LATE
            if
            :: !lock && !wrote -> write()
            :: skip
            fi;
#endif
end:
            if
#if defined(WRITES) && !defined(WRITE_LATE)
            :: !lock && !wrote -> write()
#endif
            :: bell ->
                asleep_buffer = 0;
                do
                :: pass();
                    if
                    :: !found -> break
                    :: found
#ifndef BELL
                    :: found -> break /* a hint said that there is no more */
#endif
                    fi
                od;
                found = 0;
#ifndef DRAIN_LATE
                bell = 0
#endif
            :: edge
#ifdef NO_DRY
                -> read_dry()
#endif
#ifdef BELL
#ifndef NO_LATE
            :: late && orphan -> late = 0; read_dry(); send(TOPIC)
#ifndef NO_LATE_AGAIN
            :: late && hushed ->
                late = 0; hushed = 0; read_dry(); send(TOPIC)
#endif
#endif
#endif
            fi
        od
    } unless {
        atomic {
            die ->
            die = 0; up = 0; connected = 0;
            /* its stores are done; what it knew is gone; what was under way
             * to the subscriber may be */
            server_fence();
#ifdef WRITES
            if
            :: holds -> lock = 0; holds = 0; visible = committed
            :: else
            fi;
            mine = 0; saw = 0;
#endif
            published = 0; report = 0; answer = 0; found = 0; watched = 0;
            early = 0; rings = 0; late = 0; looks = 0; calls = 0; edge = 0; takes_topic = 0; takes_sync = 0;
            do :: len(subs) > 0 -> subs?message :: else -> break od;
            do :: len(reports) > 0 -> reports?message :: else -> break od;
            if
            :: do :: len(news) > 0 -> news?message :: else -> break od
            :: skip
            fi;
            message = 0;
            goto start
        }
    }
}

active proctype Killer()
{
    byte kills;

end:
    do
    :: kills < KILLS -> d_step { up && !die -> kills++; die = 1 }
    :: break
    od
}

/* --------------------------------------------------------- subscriber -- */

/* Through the connection if there is one; else the reconnect does it. */
inline subscribe(what)
{
    d_step {
        if
        :: connected -> subs!what; edge = 1
        :: else
        fi
    }
}

active proctype Subscriber()
{
    byte message;
    bit heard;

#ifdef BELL
    /* the slot: its last owner may have left it in any state */
    d_step {
        chime = 0; rung = 0; orphan = 0;
#ifndef WANT_LATE
        wanted = 1
#endif
    }
#endif
    /* registration: changes after what is visible now count */
    seen = visible;
    subscribe(TOPIC);
    d_step { sync = 1;
             if
             :: connected -> subs!1; edge = 1
             :: else
             fi }
end:
    do
#ifdef BELL
    :: chime ->
#ifdef FLAG_BEFORE_FIFO
        take_back();
#endif
        chime = 0; /* read dry */
#ifdef LOG_BEFORE_FLAG
        seen = visible;
#endif
#if defined(NO_FLAG_FENCE)
        rung_buffer = 0;
#elif !defined(NO_FLAG) && !defined(FLAG_BEFORE_FIFO)
        take_back();
#endif
#ifndef LOG_BEFORE_FLAG
        seen = visible
#endif
#ifdef WANT_LATE
    :: confirmed && !wanted -> wanted = 1
#endif
#endif
    :: atomic { up && !connected && !die ->
                connected = 1; edge = 1;
#ifdef SYNC_FIRST
                subs!sync }
        subscribe(TOPIC)
#else
                subs!TOPIC }
        subscribe(sync)
#endif
    :: len(news) > 0 ->
#ifdef READ_FIRST
        seen = visible;
#endif
        d_step {
            do
            :: len(news) > 0 ->
                news?message;
                if
                :: message == TOPIC -> heard = 1
                :: message == sync -> confirmed = 1
                :: else
                fi
            :: else -> break
            od;
            message = 0;
#ifndef NO_READ_ON_SYNC
            heard = 1
#endif
        }
#ifndef READ_FIRST
#ifdef BELL
#ifndef LOST_FLAG
        take_back(); /* in each turn */
#endif
#endif
        d_step {
            if
            :: heard -> seen = visible
            :: else
            fi;
            heard = 0
        }
#endif
#ifndef NO_RETRY
    :: d_step { !confirmed && dropped && len(news) == 0 ->
                dropped = 0; sync = 3 - sync }
        subscribe(sync)
#endif
    od
}

/* Nothing moves any more. */
active proctype End()
{
    timeout ->
    assert(confirmed);
    assert(seen >= due)
}

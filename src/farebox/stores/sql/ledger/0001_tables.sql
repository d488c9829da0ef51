-- What a seller remembers. Times are milliseconds since 1970 UTC, amounts millisatoshis.

-- The edges of the two machines, filled from farebox.core.payment each time the file is opened.
CREATE TABLE payment_moves (
    from_state TEXT NOT NULL,
    to_state TEXT NOT NULL,
    PRIMARY KEY (from_state, to_state)
);

CREATE TABLE draw_moves (
    from_state TEXT NOT NULL,
    to_state TEXT NOT NULL,
    PRIMARY KEY (from_state, to_state)
);

-- One random value, made with the file: what addresses are hashed with before the free tier remembers them.
CREATE TABLE salts (
    purpose TEXT PRIMARY KEY,
    salt BLOB NOT NULL
);

-- A payment is a tab. The checks are the invariants of farebox.core.payment, so that no statement can break one. The id
-- (SQLite counts it by itself; elsewhere a migration makes it count) is what other tables refer to: their rows lie in order
-- of time, where keys that begin with a hash would spread what one commit writes over the whole file.
CREATE TABLE payments (
    payment_id INTEGER PRIMARY KEY,
    payment_hash BLOB NOT NULL UNIQUE CHECK (length(payment_hash) = 32),
    state TEXT NOT NULL CHECK (state IN ('open', 'funded', 'spent', 'expired', 'credit', 'refunded')),
    price_msat BIGINT NOT NULL CHECK (price_msat > 0),
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    resource TEXT NOT NULL,
    client TEXT NOT NULL,
    invoice TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    expires_at_ms BIGINT NOT NULL,
    settled_at_ms BIGINT,
    received_msat BIGINT NOT NULL DEFAULT 0,
    held_msat BIGINT NOT NULL DEFAULT 0 CHECK (held_msat >= 0),
    captured_msat BIGINT NOT NULL DEFAULT 0 CHECK (captured_msat >= 0),
    attempts INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    epoch INTEGER NOT NULL DEFAULT 0 CHECK (epoch >= attempts),
    lease_until_ms BIGINT,
    -- That what is held and captured was received is a check of 0003, with what was refunded.
    CHECK ((received_msat = 0) = (state IN ('open', 'expired'))),
    CHECK ((settled_at_ms IS NULL) = (received_msat = 0)),
    CHECK (received_msat = 0 OR received_msat >= price_msat),
    CHECK ((lease_until_ms IS NULL) = (held_msat = 0)),
    CHECK (held_msat = 0 OR state = 'funded'),
    CHECK (state <> 'funded' OR received_msat - captured_msat >= price_msat),
    CHECK (state <> 'spent' OR received_msat - captured_msat < price_msat)
);

-- Unpaid invoices only, which are few however many rows there are: a caller's own, and those past their time.
CREATE INDEX payments_open ON payments (client, digest, expires_at_ms) WHERE state = 'open';
CREATE INDEX payments_newest ON payments (created_at_ms);

CREATE TABLE draws (
    payment_id INTEGER NOT NULL REFERENCES payments (payment_id),
    epoch INTEGER NOT NULL CHECK (epoch > 0),
    amount_msat BIGINT NOT NULL CHECK (amount_msat > 0),
    state TEXT NOT NULL CHECK (state IN ('held', 'captured', 'released')),
    held_at_ms BIGINT NOT NULL,
    ended_at_ms BIGINT,
    PRIMARY KEY (payment_id, epoch),
    CHECK ((ended_at_ms IS NULL) = (state = 'held'))
);

-- The key is why an answer is given at most once to a draw, and why the answer of a draw never changes.
CREATE TABLE answers (
    payment_id INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    status INTEGER NOT NULL,
    headers_json TEXT NOT NULL,
    body BLOB NOT NULL,
    kept_at_ms BIGINT NOT NULL,
    PRIMARY KEY (payment_id, epoch),
    FOREIGN KEY (payment_id, epoch) REFERENCES draws (payment_id, epoch)
);
CREATE INDEX answers_oldest ON answers (kept_at_ms);

-- Double entry: each row takes an amount from one account and gives the same to another. The key is why no amount moves
-- twice for one reason.
CREATE TABLE entries (
    payment_id INTEGER NOT NULL REFERENCES payments (payment_id),
    epoch INTEGER NOT NULL,
    from_account TEXT NOT NULL,
    to_account TEXT NOT NULL,
    amount_msat BIGINT NOT NULL CHECK (amount_msat > 0),
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (payment_id, epoch, from_account, to_account),
    CHECK (
        (from_account = 'received' AND to_account = 'held')
        OR (from_account = 'held' AND to_account IN ('earned', 'credit'))
        OR (from_account = 'credit' AND to_account = 'refunded')
    )
);

-- A caller (hashed) has as many slots as free calls in a window; a slot is taken until it frees again.
CREATE TABLE free_calls (
    bucket BLOB NOT NULL,
    slot INTEGER NOT NULL,
    frees_at_ms BIGINT NOT NULL,
    PRIMARY KEY (bucket, slot)
);
CREATE INDEX free_calls_oldest ON free_calls (frees_at_ms);

-- What several gateways, refunds, a settlement stream and an audit log need.

-- The random name of the claim that won the draw, and then of the capture that ended it: whoever could not be told whether
-- it was kept finds out by its own name.
ALTER TABLE draws ADD COLUMN claim BLOB;

-- What was paid back of a tab that could not be delivered, routing fees included.
ALTER TABLE payments ADD COLUMN refunded_msat BIGINT NOT NULL DEFAULT 0 CHECK (
    refunded_msat >= 0
    AND received_msat >= held_msat + captured_msat + refunded_msat
    AND (refunded_msat > 0) = (state = 'refunded')
);

-- Unpaid invoices by their time, and those that ran out, which are forgotten after a while.
CREATE INDEX payments_open_until ON payments (expires_at_ms) WHERE state = 'open';
CREATE INDEX payments_expired ON payments (expires_at_ms) WHERE state = 'expired';
CREATE INDEX payments_credit ON payments (created_at_ms) WHERE state = 'credit';

-- Paid and not used up, which are few: those that nobody comes for end as credit.
CREATE INDEX payments_funded ON payments (settled_at_ms) WHERE state = 'funded';

-- One payment back to the payer of a credit. The index is why a credit is paid back once; one that certainly failed may
-- be tried again with another invoice. Only the wallet that was asked can tell what became of it.
CREATE TABLE refunds (
    payment_id INTEGER NOT NULL REFERENCES payments (payment_id),
    attempt INTEGER NOT NULL CHECK (attempt > 0),
    refund_hash BLOB NOT NULL UNIQUE CHECK (length(refund_hash) = 32),
    invoice TEXT NOT NULL,
    wallet TEXT NOT NULL,
    amount_msat BIGINT NOT NULL CHECK (amount_msat > 0),
    fee_limit_msat BIGINT NOT NULL CHECK (fee_limit_msat >= 0),
    fee_msat BIGINT NOT NULL DEFAULT 0 CHECK (fee_msat >= 0),
    state TEXT NOT NULL CHECK (state IN ('held', 'captured', 'released')),
    reason TEXT NOT NULL DEFAULT '',
    held_at_ms BIGINT NOT NULL,
    ended_at_ms BIGINT,
    PRIMARY KEY (payment_id, attempt),
    CHECK ((ended_at_ms IS NULL) = (state = 'held'))
);
CREATE UNIQUE INDEX refunds_once ON refunds (payment_id) WHERE state <> 'released';

-- How far a node's settlements were read; moved on in the transaction that settles what was read.
CREATE TABLE cursors (
    receiver TEXT PRIMARY KEY,
    cursor TEXT NOT NULL,
    read_at_ms BIGINT NOT NULL
);

-- What a node received that fits no payment: for invoices that this ledger does not know (another shop's, or ours that a
-- restored backup has lost), for less than the price, or beyond the tab.
CREATE TABLE strays (
    payment_hash BLOB PRIMARY KEY CHECK (length(payment_hash) = 32),
    receiver TEXT NOT NULL,
    received_msat BIGINT NOT NULL CHECK (received_msat > 0),
    seen_at_ms BIGINT NOT NULL
);

-- Free calls of a day, of a wide network or of everybody together.
CREATE TABLE free_totals (
    bucket BLOB NOT NULL,
    day INTEGER NOT NULL,
    taken INTEGER NOT NULL CHECK (taken >= 0),
    PRIMARY KEY (bucket, day)
);

-- The audit log: entries are only ever added, and each is sealed once, into a chain of digests.
ALTER TABLE entries ADD COLUMN seal INTEGER;
CREATE INDEX entries_unsealed ON entries (payment_id) WHERE seal IS NULL;
CREATE INDEX entries_sealed ON entries (seal) WHERE seal IS NOT NULL;
CREATE TABLE seals (
    seal INTEGER PRIMARY KEY CHECK (seal > 0),
    entries INTEGER NOT NULL CHECK (entries > 0),
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    mac BLOB NOT NULL CHECK (length(mac) = 32),
    key_id BLOB NOT NULL,
    sealed_at_ms BIGINT NOT NULL
);

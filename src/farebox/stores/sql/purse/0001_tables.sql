-- What a buyer remembers. Times are milliseconds since 1970 UTC, amounts millisatoshis.

-- counted_msat is what a budget counts of the row, and counted_at_ms from when: its hold, and once it is paid the moment
-- that was known, so that a payment which stayed in flight for a day counts a whole window from then.
-- An invoice that the wallet certainly did not pay may be tried again, as a row of its own.
CREATE TABLE purchases (
    payment_hash BLOB NOT NULL CHECK (length(payment_hash) = 32),
    attempt INTEGER NOT NULL CHECK (attempt >= 0),
    request_digest BLOB NOT NULL,
    origin TEXT NOT NULL,
    url TEXT NOT NULL,
    amount_msat BIGINT NOT NULL CHECK (amount_msat >= 0),
    fee_limit_msat BIGINT NOT NULL CHECK (fee_limit_msat >= 0),
    fee_msat BIGINT NOT NULL DEFAULT 0 CHECK (fee_msat >= 0),
    challenge_json TEXT NOT NULL,
    invoice_expires_at_ms BIGINT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('held', 'captured', 'released')),
    preimage BLOB,
    served INTEGER NOT NULL DEFAULT 0 CHECK (served IN (0, 1)),
    reason TEXT NOT NULL DEFAULT '',
    held_at_ms BIGINT NOT NULL,
    counted_msat BIGINT NOT NULL,
    counted_at_ms BIGINT NOT NULL,
    PRIMARY KEY (payment_hash, attempt),
    CHECK ((preimage IS NOT NULL) = (state = 'captured')),
    CHECK (served = 0 OR state = 'captured'),
    CHECK (
        counted_msat = CASE state
            WHEN 'held' THEN amount_msat + fee_limit_msat
            WHEN 'captured' THEN amount_msat + fee_msat
            ELSE 0
        END
    )
);

-- Why one invoice is never on its way to be paid twice.
CREATE UNIQUE INDEX purchases_once ON purchases (payment_hash) WHERE state <> 'released';
CREATE INDEX purchases_counted ON purchases (counted_at_ms, counted_msat);
CREATE INDEX purchases_held ON purchases (counted_at_ms, counted_msat) WHERE state = 'held';
CREATE INDEX purchases_unfinished ON purchases (held_at_ms) WHERE served = 0 AND state <> 'released';
CREATE INDEX purchases_newest ON purchases (held_at_ms);

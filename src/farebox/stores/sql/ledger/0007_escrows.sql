-- Money that a node holds for a call until the call has succeeded. The seed is nothing without the shop's keys. The answer
-- waits for the money, sealed like any other. A row goes when the node has said where the money is.
CREATE TABLE escrow_moves (
    from_state TEXT NOT NULL,
    to_state TEXT NOT NULL,
    PRIMARY KEY (from_state, to_state)
);

CREATE TABLE escrows (
    payment_id BIGINT PRIMARY KEY REFERENCES payments (payment_id),
    state TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'ready', 'returning')),
    seed BLOB NOT NULL,
    lease_until_ms BIGINT NOT NULL,
    status INTEGER,
    headers_json TEXT,
    body BLOB,
    CHECK ((state = 'ready') = (status IS NOT NULL)),
    CHECK ((status IS NULL) = (headers_json IS NULL)),
    CHECK ((status IS NULL) = (body IS NULL))
);
CREATE INDEX escrows_due ON escrows (lease_until_ms);

-- What waits for a person's word, which is counted before one more may.
CREATE INDEX approvals_waiting ON approvals (expires_at_ms) WHERE state = 'pending';

-- An entry is never changed or deleted, but for the one time that it is sealed; a seal is never changed or deleted.
-- A refund is a draw on a credit, and moves as one. SQLite says the same with triggers of its own.

ALTER TABLE refunds ALTER COLUMN payment_id TYPE BIGINT;

CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0];
END;
$$;

CREATE TRIGGER entries_stay BEFORE UPDATE ON entries
FOR EACH ROW WHEN (
    OLD.seal IS NOT NULL OR NEW.seal IS NULL
    OR NEW.payment_id <> OLD.payment_id OR NEW.epoch <> OLD.epoch
    OR NEW.from_account <> OLD.from_account OR NEW.to_account <> OLD.to_account
    OR NEW.amount_msat <> OLD.amount_msat OR NEW.at_ms <> OLD.at_ms
)
EXECUTE FUNCTION refuse('an entry is never changed');

CREATE TRIGGER entries_kept BEFORE DELETE ON entries
FOR EACH ROW EXECUTE FUNCTION refuse('an entry is never deleted');

CREATE TRIGGER entries_whole BEFORE TRUNCATE ON entries
FOR EACH STATEMENT EXECUTE FUNCTION refuse('an entry is never deleted');

CREATE TRIGGER seals_stay BEFORE UPDATE ON seals
FOR EACH ROW EXECUTE FUNCTION refuse('a seal is never changed');

CREATE TRIGGER seals_kept BEFORE DELETE ON seals
FOR EACH ROW EXECUTE FUNCTION refuse('a seal is never deleted');

CREATE TRIGGER seals_whole BEFORE TRUNCATE ON seals
FOR EACH STATEMENT EXECUTE FUNCTION refuse('a seal is never deleted');

CREATE FUNCTION refunds_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM draw_moves WHERE from_state = OLD.state AND to_state = NEW.state) THEN
        RAISE EXCEPTION 'this move of a refund is not in the table of moves';
    END IF;
    RETURN NULL;
END;
$$;

CREATE TRIGGER refunds_move AFTER UPDATE OF state ON refunds
FOR EACH ROW WHEN (NEW.state <> OLD.state) EXECUTE FUNCTION refunds_move();

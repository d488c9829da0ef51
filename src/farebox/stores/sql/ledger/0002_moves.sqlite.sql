-- The machines, kept by the database: a state changes only along an edge of the table, whoever writes the statement.
-- PostgreSQL says the same with a trigger function, so this file is SQLite's own.

CREATE TRIGGER payments_move AFTER UPDATE OF state ON payments
WHEN NEW.state <> OLD.state AND NOT EXISTS (
    SELECT 1 FROM payment_moves WHERE from_state = OLD.state AND to_state = NEW.state
)
BEGIN
    SELECT RAISE(ABORT, 'this move of a payment is not in the table of moves');
END;

CREATE TRIGGER draws_move AFTER UPDATE OF state ON draws
WHEN NEW.state <> OLD.state AND NOT EXISTS (
    SELECT 1 FROM draw_moves WHERE from_state = OLD.state AND to_state = NEW.state
)
BEGIN
    SELECT RAISE(ABORT, 'this move of a draw is not in the table of moves');
END;

-- A purchase is held, then captured or released, and never anything after that. The table is named after purchases here,
-- because a ledger, which has draws, may lie in the same schema.
CREATE TABLE purchase_moves (
    from_state TEXT NOT NULL,
    to_state TEXT NOT NULL,
    PRIMARY KEY (from_state, to_state)
);

CREATE FUNCTION purchases_move() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM purchase_moves WHERE from_state = OLD.state AND to_state = NEW.state) THEN
        RAISE EXCEPTION 'this move of a purchase is not in the table of moves';
    END IF;
    RETURN NULL;
END;
$$;

CREATE TRIGGER purchases_move AFTER UPDATE OF state ON purchases
FOR EACH ROW WHEN (NEW.state <> OLD.state) EXECUTE FUNCTION purchases_move();

-- The index of the quarantine. Statements end with ";" at the end of a line; each can be run again after an interruption.
-- Ids begin with the time of the rejection, so both primary keys sort by time, and what arrives is appended.

-- A message that is kept. Its file is mail/<path>. "lost": the file is gone and no MX has it any more.
CREATE TABLE IF NOT EXISTS message (
  domain     VARCHAR(253) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  id         VARCHAR(150) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  mx         VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  sender     VARCHAR(320) NOT NULL,
  recipients VARCHAR(1000) NOT NULL,
  subject    VARCHAR(250) NOT NULL,
  plugin     VARCHAR(64) NOT NULL,
  reason     VARCHAR(255) NOT NULL,
  size       BIGINT UNSIGNED NOT NULL,
  kept       BIGINT UNSIGNED NOT NULL,
  truncated  BOOLEAN NOT NULL,
  lost       BOOLEAN NOT NULL DEFAULT FALSE,
  sha256     BINARY(32) NOT NULL,
  received   DATETIME(6) AS (STR_TO_DATE(LEFT(id, 22), '%Y%m%dT%H%i%s.%f')) VIRTUAL,
  path       VARCHAR(420) CHARACTER SET ascii COLLATE ascii_bin
             AS (CONCAT(LEFT(id, 4), '-', SUBSTR(id, 5, 2), '-', SUBSTR(id, 7, 2), '/', domain, '/', id)) VIRTUAL,
  PRIMARY KEY (domain, id)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci;

-- Every id that ever came, longer than any message is kept: so nothing comes twice.
CREATE TABLE IF NOT EXISTS ledger (
  id     VARCHAR(150) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  domain VARCHAR(253) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  state  ENUM('kept', 'expired', 'canary', 'bad') CHARACTER SET ascii NOT NULL,
  PRIMARY KEY (id)
) ENGINE=InnoDB;

-- Sums, changed in the same transaction as what they count. A row belongs to one MX, whose lock its writer holds.
CREATE TABLE IF NOT EXISTS tally (
  day            DATE NOT NULL,
  domain         VARCHAR(253) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  mx             VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  imported       BIGINT UNSIGNED NOT NULL,
  imported_bytes BIGINT UNSIGNED NOT NULL,
  expired        BIGINT UNSIGNED NOT NULL DEFAULT 0,
  expired_bytes  BIGINT UNSIGNED NOT NULL DEFAULT 0,
  PRIMARY KEY (day, domain, mx)
) ENGINE=InnoDB;

-- Messages handed back to an MX: at most once each. "begun" without an answer stays with that MX until it says what became of it.
CREATE TABLE IF NOT EXISTS handover (
  id       VARCHAR(150) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  state    ENUM('begun', 'accepted', 'refused', 'later') CHARACTER SET ascii NOT NULL,
  mx       VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  who      VARCHAR(64) NOT NULL,
  began    DATETIME(3) NOT NULL,
  answered DATETIME(3) NULL,
  answer   VARCHAR(255) NOT NULL DEFAULT '',
  tries    INT UNSIGNED NOT NULL DEFAULT 1,
  PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci;

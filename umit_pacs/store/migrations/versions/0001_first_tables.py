"""The first tables.

Written out, not taken from tables.py: a migration says what was true when it was made.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "commitments",
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("peer", sa.String(length=64), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("transaction_uid", name=op.f("pk_commitments")),
    )
    op.create_table(
        "expected_counts",
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False, comment="the peer that was asked"),
        sa.Column("expected", sa.Integer(), nullable=True, comment="instances of others at the peer; null: no answer"),
        sa.Column("held", sa.Integer(), nullable=False, comment="instances of others here when it was asked"),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("study_instance_uid", name=op.f("pk_expected_counts")),
    )
    op.create_table(
        "input_sets",
        sa.Column("input_set_id", sa.String(length=32), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column(
            "generation",
            sa.Integer(),
            nullable=False,
            comment="1 for a study's first set; a late instance makes the next",
        ),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column(
            "completed_by",
            sa.Enum(
                "expected_count",
                "quiet_period",
                "maximum_wait",
                "files",
                name="completed_by",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("predecessor_id", sa.String(length=32), nullable=True),
        sa.Column(
            "state",
            sa.Enum(
                "assembled",
                "routed",
                "analysed",
                "composed",
                "delivered",
                "confirmed",
                "not_routed",
                "held",
                "failed",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column(
            "reason", sa.String(length=64), nullable=False, comment="stable word for the last change, e.g. two_patients"
        ),
        sa.Column("detail", sa.Text(), nullable=False, comment="the same for people; no patient data"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(generation = 1) = (predecessor_id IS NULL)", name=op.f("ck_input_sets_predecessor")),
        sa.CheckConstraint("generation >= 1", name=op.f("ck_input_sets_generation")),
        sa.ForeignKeyConstraint(
            ["predecessor_id"], ["input_sets.input_set_id"], name=op.f("fk_input_sets_predecessor_id_input_sets")
        ),
        sa.PrimaryKeyConstraint("input_set_id", name=op.f("pk_input_sets")),
        sa.UniqueConstraint(
            "study_instance_uid", "generation", name=op.f("uq_input_sets_study_instance_uid_generation")
        ),
    )
    op.create_index(op.f("ix_input_sets_created_at"), "input_sets", ["created_at"], unique=False)
    op.create_index(op.f("ix_input_sets_state"), "input_sets", ["state"], unique=False)
    op.create_table(
        "instances",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("called_ae_title", sa.String(length=16), nullable=False),
        sa.Column("peer_host", sa.String(length=64), nullable=False, comment="IP address the association came from"),
        sa.Column("sha256", sa.String(length=64), nullable=False, comment="of the data set's bytes as received"),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column(
            "relative_path", sa.String(length=512), nullable=False, comment="POSIX path below the store's folder"
        ),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "use",
            sa.Enum(
                "input", "own_result", "no_pixels", name="use", native_enum=False, create_constraint=True, length=32
            ),
            nullable=True,
            comment="what the assembler made of it; null: not looked at yet",
        ),
        sa.CheckConstraint("size_bytes >= 0", name=op.f("ck_instances_size_bytes")),
        sa.PrimaryKeyConstraint("sop_instance_uid", name=op.f("pk_instances")),
    )
    op.create_index(
        op.f("ix_instances_study_instance_uid_received_at"),
        "instances",
        ["study_instance_uid", "received_at"],
        unique=False,
    )
    op.create_index(
        "ix_instances_waiting",
        "instances",
        ["study_instance_uid", "received_at"],
        unique=False,
        sqlite_where=sa.text("use IS NULL"),
        postgresql_where=sa.text("use IS NULL"),
    )
    op.create_table(
        "marks",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_marks")),
    )
    op.create_table(
        "peers",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("may_send", sa.Boolean(), nullable=False),
        sa.Column("receives_results", sa.Boolean(), nullable=False),
        sa.Column("answers_query", sa.Boolean(), nullable=False),
        sa.Column("answers_commitment", sa.Boolean(), nullable=False),
        sa.Column("addresses", sa.Text(), nullable=False, comment="allowed source addresses, JSON list"),
        sa.CheckConstraint("port BETWEEN 0 AND 65535", name=op.f("ck_peers_port")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_peers")),
    )
    op.create_index(op.f("ix_peers_ae_title"), "peers", ["ae_title"], unique=False)
    op.create_table(
        "quarantined",
        sa.Column("relative_path", sa.String(length=512), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("study_instance_uid", sa.Text(), nullable=False, comment="as claimed; may be no UID at all"),
        sa.Column("sop_instance_uid", sa.Text(), nullable=False, comment="as claimed; may be no UID at all"),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("peer_host", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("relative_path", name=op.f("pk_quarantined")),
    )
    op.create_index(op.f("ix_quarantined_study_instance_uid"), "quarantined", ["study_instance_uid"], unique=False)
    op.create_table(
        "rules_versions",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("text", sa.Text(), nullable=False, comment="TOML"),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_rules_versions")),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.create_table(
        "commitment_objects",
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("is_committed", sa.Boolean(), nullable=True, comment="null: the peer has not said"),
        sa.Column("failure_reason", sa.Integer(), nullable=True, comment="Failure Reason (0008,1197)"),
        sa.ForeignKeyConstraint(
            ["transaction_uid"],
            ["commitments.transaction_uid"],
            name=op.f("fk_commitment_objects_transaction_uid_commitments"),
        ),
        sa.PrimaryKeyConstraint("transaction_uid", "sop_instance_uid", name=op.f("pk_commitment_objects")),
    )
    op.create_index(
        op.f("ix_commitment_objects_sop_instance_uid"), "commitment_objects", ["sop_instance_uid"], unique=False
    )
    op.create_table(
        "decisions",
        sa.Column("input_set_id", sa.String(length=32), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False, comment="handoffs.RoutingDecision as JSON"),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["input_set_id"], ["input_sets.input_set_id"], name=op.f("fk_decisions_input_set_id_input_sets")
        ),
        sa.PrimaryKeyConstraint("input_set_id", name=op.f("pk_decisions")),
    )
    op.create_table(
        "findings",
        sa.Column("input_set_id", sa.String(length=32), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False, comment="handoffs.Findings as JSON"),
        sa.Column("found_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["input_set_id"], ["input_sets.input_set_id"], name=op.f("fk_findings_input_set_id_input_sets")
        ),
        sa.PrimaryKeyConstraint("input_set_id", name=op.f("pk_findings")),
    )
    op.create_table(
        "input_set_instances",
        sa.Column("input_set_id", sa.String(length=32), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["input_set_id"], ["input_sets.input_set_id"], name=op.f("fk_input_set_instances_input_set_id_input_sets")
        ),
        sa.ForeignKeyConstraint(
            ["sop_instance_uid"],
            ["instances.sop_instance_uid"],
            name=op.f("fk_input_set_instances_sop_instance_uid_instances"),
        ),
        sa.PrimaryKeyConstraint("input_set_id", "sop_instance_uid", name=op.f("pk_input_set_instances")),
    )
    op.create_table(
        "leases",
        sa.Column("input_set_id", sa.String(length=32), nullable=False),
        sa.Column("worker", sa.String(length=64), nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["input_set_id"], ["input_sets.input_set_id"], name=op.f("fk_leases_input_set_id_input_sets")
        ),
        sa.ForeignKeyConstraint(["worker"], ["workers.name"], name=op.f("fk_leases_worker_workers")),
        sa.PrimaryKeyConstraint("input_set_id", name=op.f("pk_leases")),
    )
    op.create_index(op.f("ix_leases_worker"), "leases", ["worker"], unique=False)
    op.create_table(
        "result_objects",
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("input_set_id", sa.String(length=32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False, comment="order in which the objects were composed"),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "text_report",
                "measurement_report",
                "secondary_capture",
                name="kind",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("relative_path", sa.String(length=512), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False, comment="of the whole file"),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("composed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["input_set_id"], ["input_sets.input_set_id"], name=op.f("fk_result_objects_input_set_id_input_sets")
        ),
        sa.PrimaryKeyConstraint("sop_instance_uid", name=op.f("pk_result_objects")),
    )
    op.create_index(op.f("ix_result_objects_input_set_id"), "result_objects", ["input_set_id"], unique=False)
    op.create_index(
        op.f("ix_result_objects_series_instance_uid"), "result_objects", ["series_instance_uid"], unique=False
    )
    op.create_table(
        "state_changes",
        sa.Column("state_change_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("input_set_id", sa.String(length=32), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "assembled",
                "routed",
                "analysed",
                "composed",
                "delivered",
                "confirmed",
                "not_routed",
                "held",
                "failed",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
            comment="the state it came to",
        ),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["input_set_id"], ["input_sets.input_set_id"], name=op.f("fk_state_changes_input_set_id_input_sets")
        ),
        sa.PrimaryKeyConstraint("state_change_id", name=op.f("pk_state_changes")),
    )
    op.create_index(op.f("ix_state_changes_input_set_id"), "state_changes", ["input_set_id"], unique=False)
    op.create_table(
        "deliveries",
        sa.Column("delivery_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("input_set_id", sa.String(length=32), nullable=False),
        sa.Column(
            "peer", sa.String(length=64), nullable=False, comment="name of the peer; the peer itself may be gone"
        ),
        sa.Column(
            "state",
            sa.Enum(
                "pending",
                "sent",
                "confirmed",
                "dead",
                name="state",
                native_enum=False,
                create_constraint=True,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column(
            "last_status", sa.String(length=64), nullable=False, comment="DIMSE status or word of the last attempt"
        ),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False, comment="last attempt or change"),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True, comment="null: at once"),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("attempts >= 0", name=op.f("ck_deliveries_attempts")),
        sa.ForeignKeyConstraint(
            ["input_set_id"], ["input_sets.input_set_id"], name=op.f("fk_deliveries_input_set_id_input_sets")
        ),
        sa.ForeignKeyConstraint(
            ["sop_instance_uid"],
            ["result_objects.sop_instance_uid"],
            name=op.f("fk_deliveries_sop_instance_uid_result_objects"),
        ),
        sa.PrimaryKeyConstraint("delivery_id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("sop_instance_uid", "peer", name=op.f("uq_deliveries_sop_instance_uid_peer")),
    )
    op.create_index(op.f("ix_deliveries_input_set_id"), "deliveries", ["input_set_id"], unique=False)
    op.create_index(op.f("ix_deliveries_state"), "deliveries", ["state"], unique=False)

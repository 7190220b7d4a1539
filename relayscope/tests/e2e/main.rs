//! End to end: real processes, real peers, the real Prometheus, on loopback.
//!
//! A test whose peer is not installed, or whose kernel or privileges it has not, is listed as ignored, says
//! why on stderr, and is counted as skipped by the runner. `scripts/test` installs all peers.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod alerts;
mod authenticated;
mod autopsy;
mod cli;
mod clock;
mod dashboards;
mod demo;
mod discovery;
mod embedding;
mod example_relay;
mod fleet;
mod formats;
mod hang;
mod health;
mod history;
mod hostile;
mod mesh;
mod namespaces;
mod notify;
mod packaging;
mod page;
mod peers;
mod perf;
mod prometheus;
mod prometheus_server;
mod relay;
mod reload;
mod rules;
mod runtime;
mod scapy;
mod segment;
mod servers;
mod shards;
mod soak;
mod split;
mod stamp_suite;
mod tap;
mod top;
mod truth;
mod web;

use libtest_mimic::{Arguments, Trial};
use peers::Peer;

fn main() {
    if let Some(address) = std::env::var_os(example_relay::SERVE) {
        return example_relay::serve(&address);
    }
    let mut arguments = Arguments::from_args();
    // Two relays, their peers and a Prometheus at a time are enough for two cores.
    arguments.test_threads.get_or_insert(2);
    // Where one test is asked for by its name, as a runner with a process for each does, others' peers are not looked for.
    let only = arguments.filter.clone().filter(|_| arguments.exact);
    let mut trials = Vec::new();
    let mut add = |name: &str, peer: Option<Peer>, test: fn()| {
        let is_asked_for = only.as_deref().is_none_or(|only| only == name);
        let missing = peer.filter(|_| is_asked_for).and_then(Peer::missing);
        if let Some(reason) = &missing {
            eprintln!("SKIPPED {name}: {reason}");
        }
        let trial = Trial::test(name, move || {
            test();
            Ok(())
        });
        trials.push(trial.with_ignored_flag(missing.is_some()));
    };

    add("two_relays_see_each_other_up_down_and_up_again", None, mesh::up_down_and_up_again);
    add("without_targets_the_mesh_says_how_to_add_one", None, mesh::no_targets);
    add("a_relay_probes_over_ipv6_and_from_the_address_that_was_probed", None, mesh::any_address);
    add("sigint_and_sigterm_drain_and_exit_0", None, mesh::signals_drain);
    add("a_prometheus_scrapes_two_relays", Some(Peer::Prometheus), prometheus::scrapes_two_relays);
    add(
        "a_prometheus_finds_the_same_values_in_all_three_formats",
        Some(Peer::Prometheus),
        formats::prometheus_takes_all_three,
    );
    add(
        "a_strict_parser_of_another_make_reads_openmetrics",
        Some(Peer::OpenMetricsParser),
        formats::openmetrics_parses_strictly,
    );
    add("promtool_complains_of_the_two_ms_names_only", Some(Peer::Promtool), prometheus::promtool_is_content);
    add(
        "the_guide_for_authors_of_relays_is_executed_word_for_word",
        Some(Peer::Curl),
        embedding::is_executed,
    );
    add("each_program_of_that_guide_is_run_and_formatted", None, embedding::programs_are_run_and_formatted);
    add(
        "the_first_scraped_program_of_that_guide_has_twenty_lines",
        None,
        embedding::the_first_has_twenty_lines,
    );
    add("that_guide_quotes_the_benchmarks", None, embedding::figures_are_quoted);
    add("what_is_printed_is_compared_with_what_that_guide_shows", None, embedding::comparison);
    add("the_dashboard_is_whole_and_asks_for_what_is_exposed", None, dashboards::is_whole);
    add("the_dashboard_has_the_thresholds_it_is_to_have", None, dashboards::thresholds);
    add("another_prefix_is_one_replacement_in_the_dashboard_and_the_rules", None, dashboards::another_prefix);
    add(
        "grafanas_own_model_takes_all_of_the_dashboard",
        Some(Peer::GrafanaModel),
        dashboards::model_of_grafana,
    );
    add("every_panel_of_the_dashboard_has_data", Some(Peer::Prometheus), dashboards::every_panel_has_data);
    add("the_rules_are_whole_and_ask_for_what_is_exposed", None, rules::are_whole);
    add("the_rules_are_listed_in_the_readme", None, rules::are_listed);
    add("the_run_book_has_a_section_for_each_alert", None, rules::are_in_the_run_book);
    add("each_alert_has_unit_tests", None, rules::each_alert_has_unit_tests);
    add("each_alert_is_provoked_by_one_of_the_next_five", None, rules::each_alert_is_provoked);
    add("peers_and_lists_that_fail_fire_their_alerts", Some(Peer::Prometheus), rules::mesh::fire);
    add("shards_rings_and_drains_that_fail_fire_their_alerts", Some(Peer::Prometheus), rules::pipeline::fire);
    add("relays_that_fail_fire_their_alerts", Some(Peer::Prometheus), rules::process::fire);
    add(
        "certificates_and_passwords_that_fail_fire_their_alerts",
        Some(Peer::Prometheus),
        rules::security::fire,
    );
    add(
        "a_relay_under_load_fills_its_rows_and_causes_of_its_own_fire_their_alerts",
        Some(Peer::Prometheus),
        rules::relay::fire,
    );
    add(
        "promtool_is_content_with_the_rules_and_their_tests",
        Some(Peer::Promtool),
        rules::promtool_is_content,
    );
    add(
        "a_killed_peer_is_one_alert_at_alertmanager_and_one_resolution",
        Some(Peer::Alertmanager),
        alerts::killed_peers,
    );
    add(
        "an_alertmanager_that_was_killed_and_forgot_all_gets_what_stands",
        Some(Peer::Alertmanager),
        alerts::restarted_and_forgetful,
    );
    add(
        "an_rtt_that_trembles_about_its_threshold_is_one_alert",
        Some(Peer::Alertmanager),
        alerts::trembling_rtt,
    );
    add("alerts_go_over_https_to_whom_this_host_trusts", Some(Peer::Alertmanager), alerts::over_https);
    add("an_alertmanager_that_hangs_does_not_hold_up_the_end", None, alerts::unreachable_at_stop);
    add("loss_rtt_and_jitter_imposed_raise_their_alerts_and_end_with_them", None, alerts::of_paths);
    add("a_stopped_data_plane_is_one_alert_whoever_its_peers_are", None, alerts::stopped_data_plane);
    add("a_ring_that_fills_and_one_that_overflows_raise_their_alerts", None, alerts::bursts);
    add("a_peer_nothing_is_heard_of_any_more_is_silent", None, alerts::silent_peer);
    add("a_reload_that_fails_is_an_alert_until_one_succeeds", None, alerts::reload_fails);
    add("rules_of_alerts_are_in_force_after_a_reload", None, alerts::rules_are_reloaded);
    add(
        "rules_of_alerts_are_in_force_after_a_reload_of_a_control_plane",
        None,
        alerts::rules_of_a_control_plane_are_reloaded,
    );
    add("the_routes_of_alerts_say_what_would_be_right", None, alerts::wrong_questions);
    add(
        "a_prometheus_with_a_certificate_and_a_password_scrapes_a_relay_and_others_do_not",
        Some(Peer::Prometheus),
        web::prometheus_over_tls,
    );
    add(
        "promtool_takes_the_example_of_a_web_configuration",
        Some(Peer::Promtool),
        web::promtool_takes_the_example,
    );
    add("mesh_status_speaks_tls_and_names_a_user", None, web::mesh_status);
    add("the_certificate_that_the_docs_make_is_trusted", Some(Peer::Openssl), web::documented_certificate);
    add("an_access_log_is_kept_where_it_is_wanted_and_has_no_password", None, web::access_log);
    add("what_clients_do_wrong_is_answered_and_counted_and_changes_nothing_else", None, web::what_goes_wrong);
    add(
        "a_bad_web_configuration_is_refused_at_start_and_changes_nothing_later",
        None,
        web::bad_web_configuration,
    );
    add(
        "a_crowd_of_idle_dripping_and_scraping_clients_leaves_the_drain_on_time",
        None,
        web::crowd::drain_is_on_time,
    );
    add("a_stall_of_the_relay_costs_no_scraper_its_connection", None, web::crowd::stall_of_ours);
    add("sighup_reloads_targets_and_keeps_what_did_not_change", None, reload::targets_change);
    add("sighup_reloads_the_relays_of_the_matrix_and_this_ones_name", None, reload::relays_change);
    add("a_bad_file_at_sighup_changes_nothing", None, reload::bad_file);
    add("a_target_that_cannot_be_probed_is_refused_at_reload_and_takes_nobody", None, reload::bad_target);
    add("a_reload_there_is_no_room_for_keeps_the_targets", None, reload::no_room);
    add("a_reload_over_http_is_in_force_when_it_is_answered", None, reload::over_http);
    add("a_reload_over_http_is_refused_unless_allowed", None, reload::over_http_is_off);
    add("a_file_that_changes_is_reloaded_without_a_signal", None, reload::files_change);
    add(
        "a_control_plane_alone_reloads_its_rules_and_shows_what_came_of_it",
        None,
        reload::control_plane_alone,
    );
    add("a_groups_series_follow_it_and_its_targets_begin_anew_when_they_must", None, reload::groups_change);
    add("lists_in_files_bring_targets_and_take_them", None, discovery::lists_in_files);
    add("lists_that_are_bad_or_half_written_take_no_good_target_away", None, discovery::bad_lists);
    add("lists_over_http_bring_targets_and_survive_failures", None, discovery::lists_over_http);
    add("a_name_that_moves_takes_its_target_along_and_one_that_fails_stays", None, discovery::names_move);
    add("both_families_of_a_name_are_one_target", None, discovery::both_families_and_services);
    add("targets_that_come_and_go_leave_nothing_behind", None, soak::targets_come_and_go);
    add("a_flood_at_a_probing_socket_is_counted_and_is_not_loss", None, hostile::flood);
    add("a_log_nobody_reads_does_not_end_the_relay", None, mesh::log_is_gone);
    add("losses_imposed_come_back_packet_for_packet", None, truth::losses);
    add(
        "delay_duplication_and_reordering_imposed_come_back_packet_for_packet",
        None,
        truth::delay_duplication_and_reordering,
    );
    add("losses_imposed_come_back_by_direction", None, truth::directions);
    add("a_partition_is_down_in_time_and_heals", None, truth::partition);
    add("a_pulled_cable_is_down_in_time_and_heals", Some(Peer::Namespaces), namespaces::cable_pulled);
    add("delay_and_loss_of_the_kernels_own_come_back", Some(Peer::Netem), namespaces::netem);
    add("hostile_packets_are_counted_by_reason_and_change_nothing_else", None, hostile::both_roles);
    add(
        "a_reflector_flooded_from_another_core_answers_no_more_than_it_is_asked_on_glommio",
        None,
        hostile::reflector::flooded_on_glommio,
    );
    add(
        "a_reflector_flooded_from_another_core_answers_no_more_than_it_is_asked_on_poll",
        None,
        hostile::reflector::flooded_on_poll,
    );
    add(
        "a_quic_responder_flooded_from_another_core_sends_three_times_what_came_at_most_on_glommio",
        None,
        hostile::responder::flooded_on_glommio,
    );
    add(
        "a_quic_responder_flooded_from_another_core_sends_three_times_what_came_at_most_on_poll",
        None,
        hostile::responder::flooded_on_poll,
    );
    add(
        "a_proven_quic_client_is_never_sent_more_than_it_sent_on_glommio",
        None,
        hostile::responder::proven_on_glommio,
    );
    add(
        "a_proven_quic_client_is_never_sent_more_than_it_sent_on_poll",
        None,
        hostile::responder::proven_on_poll,
    );
    add("a_source_gets_its_rate_and_no_other_pays_for_it", Some(Peer::Namespaces), hostile::rate::limited);
    add("two_shards_share_an_address_and_a_session_stays_with_one_on_glommio", None, shards::on_glommio);
    add("two_shards_share_an_address_and_a_session_stays_with_one_on_poll", None, shards::on_poll);
    add(
        "ten_relays_probe_each_other_in_full_or_three_each_and_a_change_moves_few",
        None,
        fleet::full_and_beyond,
    );
    add("a_data_plane_on_its_own_follows_the_list_of_its_fleet", None, fleet::two_processes);
    add(
        "a_control_plane_killed_ten_times_loses_count_of_nothing",
        None,
        split::control_plane_killed_ten_times,
    );
    add("a_killed_data_plane_shows_at_once_and_its_successor_is_followed", None, split::data_plane_killed);
    add(
        "a_relay_with_a_segment_is_seen_by_others_and_survives_its_damage",
        None,
        split::both_planes_and_a_segment,
    );
    add("a_segment_in_use_is_refused_with_its_owner", None, split::segment_in_use);
    add("files_that_are_no_segment_are_named_and_left_alone", None, split::files_that_are_no_segment);
    add("a_segment_that_shrinks_ends_nobody_and_shows_no_number", None, split::segment_that_shrinks);
    add("scapy_reflects_our_probes_field_by_field", Some(Peer::Scapy), scapy::as_reflector);
    add("scapy_probes_our_reflector_field_by_field", Some(Peer::Scapy), scapy::as_sender);
    add("stamp_suite_reflects_our_probes", Some(Peer::StampSuite), stamp_suite::as_reflector);
    add("stamp_suite_probes_our_reflector", Some(Peer::StampSuite), stamp_suite::as_sender);
    add("coturn_answers_stun_probes", Some(Peer::Coturn), servers::coturn);
    add("a_stun_server_of_rfc_3489_answers_stun_probes", Some(Peer::Stund), servers::stund);
    add("caddy_answers_quic_probes", Some(Peer::Caddy), servers::caddy_http3);
    add("aioquic_answers_quic_probes", Some(Peer::Aioquic), servers::aioquic);
    add("a_reflector_that_knows_44_octets_only_is_probed", None, servers::plain_44_octets);
    add("a_tcp_listener_is_probed", None, servers::tcp_listener);
    add("stamp_suite_reflects_our_probes_with_a_key", Some(Peer::StampSuite), authenticated::as_reflector);
    add("stamp_suite_probes_our_reflector_with_a_key", Some(Peer::StampSuite), authenticated::as_sender);
    add("a_probe_that_comes_twice_is_answered_once", None, authenticated::what_comes_twice);
    add("two_relays_with_a_key_and_a_stranger_without", None, authenticated::two_relays);
    add("bad_input_ends_with_one_line_and_code_2", None, cli::bad_input);
    add("a_busy_port_names_the_port", None, cli::busy_port);
    add("check_config_and_print_config_agree", None, cli::check_and_print);
    add("a_one_shot_probe_has_the_exit_codes_of_ping", None, cli::one_shot_probe);
    add("tap_prints_samples_by_name_as_text_and_as_json", None, tap::text_and_json);
    add("tap_prints_an_applications_series_and_counts_what_it_lost", None, tap::of_an_application);
    add("tap_prints_what_its_filters_want_and_nothing_else", None, tap::filters);
    add("tap_ends_at_a_signal_with_an_exact_account", None, tap::account_is_exact);
    add("tap_ends_at_a_signal_though_nobody_reads_its_pipe", None, tap::stalled_reader);
    add("tap_ends_quietly_when_its_pipe_is_closed", None, tap::closed_pipe);
    add("tap_follows_a_data_plane_that_died_and_came_again", None, tap::follows_a_restart);
    add("autopsy_tells_how_a_killed_data_plane_ended", None, autopsy::of_the_dead);
    add("autopsy_of_what_is_no_segment_is_one_line", None, autopsy::of_no_segment);
    add("autopsy_of_a_segment_full_of_garbage_says_so_and_ends", None, autopsy::of_garbage);
    add("top_shows_a_data_plane_its_death_and_the_next_one", Some(Peer::Tmux), top::shows_a_data_plane);
    add("top_does_what_its_keys_say_and_restores_the_terminal", Some(Peer::Tmux), top::keys_work);
    add("top_ends_with_its_terminal", Some(Peer::Tmux), top::terminal_is_gone);
    add("top_without_a_terminal_names_what_to_use_instead", None, top::no_terminal);

    add("the_page_shows_a_demo_in_a_browser", Some(Peer::Browser), page::of_a_demo);
    add("the_page_shows_a_thousand_targets_in_a_browser", Some(Peer::Browser), page::of_a_thousand_targets);
    add("a_demo_shows_three_relays_and_a_link_that_is_cut_and_mended", None, demo::three_relays);
    add("a_demo_ends_as_it_is_told_and_names_a_port_that_is_taken", None, demo::ends_as_it_is_told);

    add("history_is_kept_answered_and_goes_on_after_a_stop_and_a_kill", None, history::kept_and_answered);
    add("history_waits_while_the_disk_is_full_and_is_written_then", Some(Peer::Mounts), history::full_disk);
    add("history_that_cannot_be_kept_stops_nothing_and_says_so_once", None, history::what_cannot_be_kept);
    add("healthz_tells_who_hangs_and_since_when", Some(Peer::Ptrace), health::clocks_tell_who_hangs);
    add("the_gauges_of_the_mesh_follow_its_members", None, health::gauges_follow_the_members);
    add("the_gauges_of_the_mesh_are_right_across_restarts", None, health::gauges_survive_restarts);
    add("io_is_that_of_the_one_process_there_is", None, perf::io_of_one_process);
    add("io_of_the_data_planes_process_is_its_own_until_it_dies", None, perf::io_of_two_processes);
    add(
        "io_that_may_not_be_read_is_absent_and_says_why",
        Some(Peer::Root),
        perf::io_of_another_users_process,
    );
    add("what_a_ring_brought_is_told_by_family_and_adds_up", None, perf::sources_add_up);
    add(
        "a_relay_that_was_stopped_knows_how_late_its_drain_was",
        None,
        perf::lateness_of_a_relay_that_was_stopped,
    );
    add("a_relay_tells_its_build_and_its_process", None, perf::build_and_process);
    add("the_service_manager_is_told_of_start_reload_and_stop", None, notify::start_reload_stop);
    add(
        "a_watchdog_is_served_until_a_shard_hangs_and_again_when_it_runs",
        Some(Peer::Ptrace),
        notify::shard_hangs,
    );
    add(
        "a_watchdog_is_served_until_the_drain_hangs_and_again_when_it_runs",
        Some(Peer::Ptrace),
        notify::drain_hangs,
    );
    add("a_control_plane_is_up_without_a_data_plane_and_outlives_one", None, notify::control_plane_alone);
    add(
        "a_control_planes_watchdog_is_served_until_its_own_drain_hangs",
        Some(Peer::Ptrace),
        notify::control_planes_drain_hangs,
    );
    add(
        "a_data_plane_on_its_own_serves_its_watchdog_until_a_shard_hangs",
        Some(Peer::Ptrace),
        notify::data_plane_alone,
    );

    add("where_io_uring_is_refused_auto_runs_on_poll_and_says_why", None, runtime::auto_runs_on_poll);
    add("auto_survives_an_executor_that_cannot_be_made", None, runtime::auto_survives_glommio);
    add("where_io_uring_is_allowed_auto_runs_on_glommio", None, runtime::auto_runs_on_glommio);
    add("glommio_alone_is_strict_and_names_the_remedy", None, runtime::glommio_is_strict);
    add("poll_never_asks_for_io_uring", None, runtime::poll_never_asks_for_io_uring);
    add(
        "a_control_plane_tells_what_drives_the_shards_of_another_process",
        None,
        runtime::another_process_tells_the_runtime,
    );
    add("a_relay_stopped_for_3_s_reports_no_loss_and_nobody_down", None, runtime::stopped_for_3_s);
    add(
        "a_step_of_the_wall_clock_by_an_hour_disturbs_no_rtt_and_is_no_loss",
        Some(Peer::Cc),
        clock::steps_by_an_hour,
    );
    add(
        "stamps_that_contradict_the_wall_clock_make_no_rtt_and_no_loss",
        Some(Peer::Faketime),
        clock::contradicts_the_stamps,
    );

    add(
        "the_example_configuration_is_what_print_config_prints",
        None,
        packaging::example::is_what_is_printed,
    );
    add(
        "mandoc_finds_nothing_wrong_with_the_manual",
        Some(Peer::Mandoc),
        packaging::manual::mandoc_is_content,
    );
    add("man_formats_every_page_without_a_warning", Some(Peer::Man), packaging::manual::man_is_content);
    add(
        "manual_and_completions_are_installed_as_documented",
        None,
        packaging::manual::installed_from_the_binary,
    );
    add("bash_completes_commands_and_values", Some(Peer::Bash), packaging::manual::bash_completes);
    add("zsh_loads_the_completions", Some(Peer::Zsh), packaging::manual::zsh_completes);
    add("fish_completes_commands_and_options", Some(Peer::Fish), packaging::manual::fish_completes);

    add(
        "lintian_finds_nothing_wrong_with_the_package",
        Some(Peer::Lintian),
        packaging::deb::lintian_is_content,
    );
    add(
        "the_package_installs_runs_without_systemd_and_leaves_nothing_behind",
        Some(Peer::Machine),
        packaging::deb::installs_and_runs_without_systemd,
    );
    add(
        "the_packaged_service_runs_hardened_reloads_is_watched_and_leaves_nothing_behind",
        Some(Peer::Machine),
        packaging::deb::starts_with_systemd_and_is_purged,
    );
    add(
        "both_planes_run_as_services_of_their_own",
        Some(Peer::Machine),
        packaging::deb::runs_as_two_services,
    );

    add(
        "the_seccomp_profile_lets_a_container_do_all_it_does",
        Some(Peer::Crun),
        packaging::container::profile_is_enough,
    );
    add(
        "without_io_uring_in_the_profile_a_container_runs_on_poll",
        Some(Peer::Crun),
        packaging::container::profile_is_what_allows_io_uring,
    );
    add(
        "the_containerfile_starts_what_there_is",
        None,
        packaging::container::containerfile_starts_what_there_is,
    );

    let conclusion = libtest_mimic::run(&arguments, trials);
    relay::forget_state();
    conclusion.exit();
}

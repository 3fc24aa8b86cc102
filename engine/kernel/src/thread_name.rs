//! [`thread_name`]: whose thread it is, in the 15 bytes that Linux keeps of a name.

/// What Linux keeps of a thread's name, in bytes.
const NAME_BYTES_MAX: usize = 15;

/// The name of a thread of `job` that does `role`: `job/role`, as `top -H`, `ps -L` and panics show it.
///
/// A name has 15 bytes, so the job's name is cut to what `role` leaves of them. Roles are short: `s0` for shard 0,
/// `super` for the supervisor, `in3` for the input of operator 3, `out4` for the output of operator 4.
pub fn thread_name(job: &str, role: &str) -> String {
    let room = NAME_BYTES_MAX.saturating_sub(role.len() + 1);
    let job = &job[..job.floor_char_boundary(room)];
    // A thread's name must not hold a zero byte; and whoever reads a list of threads wants lines.
    format!("{job}/{role}").replace(char::is_control, "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_stays_whole_and_the_job_gives_way() {
        assert_eq!(thread_name("words", "s0"), "words/s0");
        assert_eq!(thread_name("temperatures-of-hall-7", "s127"), "temperatur/s127");
        assert_eq!(thread_name("Übertemperaturen", "out12").len(), 15);
        assert_eq!(thread_name("ééééé", "super"), "éééé/super");
        assert_eq!(thread_name("a\0b\n", "s0"), "a_b_/s0");
        assert_eq!(thread_name("", "s0"), "/s0");
    }
}
